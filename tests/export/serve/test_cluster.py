"""What Ray is asked for, without a Ray."""

import os
import pickle
import sys
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
