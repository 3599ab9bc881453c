"""What Ray is asked for, without a Ray."""

import os
import pickle
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from export.serve import cluster
from export.serve.cluster import Replicas, desired_replicas, import_ray, share
from export.serve.limits import Limits
from export.serve.replica import Plan
from export.serve.served import How
from zoo.errors import MenagerieError, UsageError


@pytest.mark.parametrize(
    ("loads", "number"),
    [([], 1), ([0.0], 1), ([1.0], 1), ([2.0], 1), ([2.1], 2), ([3.0, 3.0], 3), ([9.0, 9.0], 4), ([0.1, 0.1, 0.1], 1)],
)
def test_as_many_replicas_as_are_busy(loads: list[float], number: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={"batches": dict(enumerate(loads))},
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )
    assert desired_replicas(context) == (number, {})


def test_nothing_is_known_of_the_load_at_first() -> None:
    context = SimpleNamespace(
        aggregated_metrics=None, capacity_adjusted_min_replicas=2, capacity_adjusted_max_replicas=4
    )
    assert desired_replicas(context) == (2, {})


def ray_with(**resources: float) -> SimpleNamespace:
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(
    ("resources", "how", "replicas", "wanted", "device", "threads"),
    [
        ({"CPU": 8}, How(), (1, 1), Replicas(1, 1, 0, 8), "cpu", 8),
        ({"CPU": 8}, How(), (1, 4), Replicas(1, 4, 0, 2), "cpu", 2),
        ({"CPU": 8}, How(), (3, 3), Replicas(3, 3, 0, 2), "cpu", 2),
        ({"CPU": 2}, How(), (1, 9), Replicas(1, 9, 0, 1), "cpu", 1),
        ({"CPU": 8}, How(threads=3), (2, 2), Replicas(2, 2, 0, 3), "cpu", 3),
        ({"CPU": 8, "GPU": 2}, How(), (2, 2), Replicas(2, 2, 1, 1), "cuda", 4),
        ({"CPU": 8, "GPU": 2}, How(device="cpu"), (2, 2), Replicas(2, 2, 0, 4), "cpu", 4),
        ({"CPU": 8, "GPU": 2}, How(device="tensorrt"), (1, 2), Replicas(1, 2, 1, 1), "tensorrt", 4),
        ({"CPU": 8}, How(device="cuda", allow_cpu=True), (1, 1), Replicas(1, 1, 0, 8), "cuda", 8),
    ],
)
def test_what_each_replica_gets(
    resources: dict[str, float], how: How, replicas: tuple[int, int], wanted: Replicas, device: str, threads: int
) -> None:
    found, opened = share(ray_with(**resources), how, *replicas)
    assert (found, opened.device, opened.threads) == (wanted, device, threads)


@pytest.mark.parametrize(
    ("resources", "how", "sentence"),
    [
        ({"CPU": 8, "GPU": 1}, How(), "--replicas 2 need 2 GPUs, and Ray has 1: give fewer, or --device cpu"),
        ({"CPU": 8}, How(device="cuda"), "--replicas 2 need 2 GPUs, and Ray has 0"),
        ({"CPU": 2}, How(threads=2), "--replicas 2 need 4 CPUs, and Ray has 2: give fewer, or fewer --threads"),
    ],
)
def test_replicas_that_have_no_place(resources: dict[str, float], how: How, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        share(ray_with(**resources), how, 2, 2)


@pytest.mark.parametrize("missing", ["ray", "ray.serve", "uvicorn", "prometheus_client"])
def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(cluster, "_ALONE", {})
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MenagerieError, match=r"pip install 'menagerie\[cluster\]'"):
        import_ray()


def test_a_ray_of_ones_own_is_quiet_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cluster._ALONE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MenagerieError):
        import_ray("auto")
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ  # a cluster's settings are its own
    with pytest.raises(MenagerieError):
        import_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert os.environ["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] == "9"  # who knows better, may
    for name in cluster._ALONE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:nix", "no.such.host.invalid:6379"])
def test_no_cluster_there(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(cluster, "import_ray", lambda _address: SimpleNamespace(init=None))
    with pytest.raises(MenagerieError, match=r"no Ray cluster at .*: start one"), cluster.connected(address, 1):
        pass


@pytest.mark.parametrize("kind", [Exception, OSError, RuntimeError, ValueError])
def test_a_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    ray = SimpleNamespace(init=MagicMock(side_effect=kind("timed out\nand so on")))
    monkeypatch.setattr(cluster, "import_ray", lambda _: ray)
    with pytest.raises(MenagerieError, match=r"^Ray does not start: timed out \(.*\)$"), cluster.connected(None, 1):
        pass


def test_auto_knocks_where_ray_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
        monkeypatch.setattr(cluster, "import_ray", lambda _address: SimpleNamespace(init=None))
        with pytest.raises(MenagerieError, match=r"no Ray cluster at 'auto'"), cluster.connected("auto", 1):
            pass


def test_a_session_goes_with_its_ray_unless_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session, latest = tmp_path / "session_1", tmp_path / "session_latest"

    def init(*_: object, **_more: object) -> SimpleNamespace:
        (session / "logs").mkdir(parents=True, exist_ok=True)
        latest.unlink(missing_ok=True)
        latest.symlink_to(session)
        return SimpleNamespace(address_info={"session_dir": str(session)})

    monkeypatch.setattr(cluster, "import_ray", lambda _: SimpleNamespace(init=init, shutdown=lambda: None))
    with pytest.raises(MenagerieError, match="nix"), cluster.connected(None, 1):
        raise MenagerieError("nix")
    assert session.exists()
    with cluster.connected(None, 1):
        other = tmp_path / "session_2"
        other.mkdir()
    assert list(tmp_path.iterdir()) == [other]
    with cluster.connected(None, 1):
        latest.unlink()
        latest.symlink_to(other)  # a Ray that started later
    assert sorted(tmp_path.iterdir()) == [other, latest]


def test_other_machines_of_a_cluster() -> None:
    def node(number: int, address: str, *, alive: bool = True) -> dict[str, object]:
        return {"NodeID": f"{number}", "NodeManagerAddress": address, "Alive": alive}

    nodes = [node(1, "10.0.0.1"), node(2, "10.0.0.1"), node(3, "10.0.0.3", alive=False)]
    context = SimpleNamespace(get_node_id=lambda: "1")
    ray = SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: nodes)
    assert cluster.other_machines(ray) == []
    nodes += [node(4, "10.0.0.2"), node(5, "10.0.0.2")]
    assert cluster.other_machines(ray) == ["10.0.0.2"]


@pytest.fixture
def serve_module(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ray Serve's module of replicas, on a Ray that is on loopback."""
    module = SimpleNamespace(add_port_to_grpc_server=lambda _server, address: address)
    ray = SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", MagicMock())
    monkeypatch.setitem(sys.modules, "ray.serve._private", MagicMock())
    monkeypatch.setitem(sys.modules, "ray.serve._private.replica", module)
    return module


def test_a_replica_listens_on_loopback_as_its_ray_does(serve_module: SimpleNamespace) -> None:
    safe = cluster._stay_on_loopback()
    assert not safe()  # nobody has asked for the port: Ray has opened it in another way
    assert serve_module.add_port_to_grpc_server(None, "[::]:0") == "127.0.0.1:0"
    assert safe()


def test_a_ray_that_cannot_be_kept_on_loopback_is_refused(
    serve_module: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[object, ...]] = []

    def link(*call: object) -> object:
        told.append(call)
        return SimpleNamespace(version=1), 0

    monkeypatch.setattr(cluster, "link_to", lambda _board: link)
    del serve_module.add_port_to_grpc_server
    with pytest.raises(MenagerieError, match="would listen on all interfaces: install another"):
        cluster.Deployment(None, Plan("m", "127.0.0.1", 80, How(), Limits()), "m")
    assert [call[0] for call in told] == ["join", "report"]
    assert told[1][2:] == (1, cluster._OPEN)


@pytest.mark.parametrize(
    ("told", "sentence"), [([""], "does not start the replicas: Deploying"), (None, "not start"), (["nix"], None)]
)
def test_a_deployment_that_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, told: list[str] | None, sentence: str | None
) -> None:
    serve = MagicMock()
    serve.run.side_effect = RuntimeError("Deploying application m failed\nTraceback\n  and so on")
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.setitem(sys.modules, "ray.serve.config", MagicMock())
    monkeypatch.setattr(cluster, "link_to", lambda _board: lambda *_call: told)
    plan = Plan("m", "127.0.0.1", 80, How(), Limits())
    if sentence is None:  # the server says what the replicas said
        cluster.deploy(None, plan, Replicas())()
    else:
        with pytest.raises(MenagerieError, match=sentence) as caught:
            cluster.deploy(None, plan, Replicas())
        assert "\n" not in str(caught.value)
    serve.delete.assert_called_once()


def test_plans_travel() -> None:
    plan = Plan("m", "127.0.0.1", 80, How(), Limits(), token=b"x")
    assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301  # ours
    assert pickle.loads(pickle.dumps(cluster.Deployment)) is cluster.Deployment  # noqa: S301
