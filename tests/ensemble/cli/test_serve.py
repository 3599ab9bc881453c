"""`ensemble serve` as a process on Ray Serve, asked by Triton's client.

Ray takes long to start, so servers that need no Ray of their own use that of the first.
"""

import asyncio
import json
import os
import re
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import numpy_helper
from tritonclient.utils import InferenceServerException

from benchmarks.serving import mix
from tests.ensemble.cli.serving import SHARED, Process, family, is_running, run, started
from tests.export.serve.conftest import Floats, Images, answers, asked, infer_body, some_images, write_graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("served") / "tiny.onnx")


@pytest.fixture(scope="module")
def server(graph: Path) -> Iterator[Process]:
    """One server for most tests of this file."""
    pid, options = graph.with_suffix(".pid"), ("--replicas", 2, "--threads", 1, "--max-batch", 16)
    with started(graph, *options, "--pid-file", pid, environment=SHARED) as found:
        assert pid.read_text() == f"{found.process.pid}\n"
        yield found
        processes = family(found.process.pid) - {found.process.pid}
        assert len(processes) > 5
        assert found.end() == 0
    assert not pid.exists()
    wait_for_the_end_of(processes)


@pytest.fixture
def client(server: Process) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as found:
        yield found


def test_what_a_ready_server_says_of_itself(server: Process) -> None:
    assert server.ready | {"pid": 0, "port": 0, "url": ""} == {
        "url": "",
        "host": "127.0.0.1",
        "port": 0,
        "model": "tiny",
        "replicas": 2,
        "device": "cpu",
        "threads": 1,
        "pid": 0,
    }
    assert server.ready["pid"] == server.process.pid
    assert server.ready["url"] == f"http://{server.address}"


def test_tritons_client_asks_for_configuration_statistics_and_index(client: triton.InferenceServerClient) -> None:
    assert set(client.get_server_metadata()["extensions"]) >= {"model_configuration", "statistics", "model_repository"}
    assert client.get_model_config("tiny") == client.get_model_config("tiny", "1")
    assert client.get_model_config("tiny")["max_batch_size"] == 16
    assert client.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]

    def counted() -> tuple[int, int]:
        (one,) = client.get_inference_statistics("tiny")["model_stats"]
        (same,) = client.get_inference_statistics()["model_stats"]
        assert same["name"] == one["name"] == "tiny"
        return one["inference_count"], one["inference_stats"]["success"]["count"]

    images, requests = counted()
    for _ in range(5):  # of whichever replica
        client.infer("tiny", asked(some_images(3)))
    deadline = time.monotonic() + 10
    while counted() != (images + 15, requests + 5):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for call in (lambda: client.load_model("tiny"), client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException, match=r"whoever runs this server|no traces"):
            call()


def test_many_clients_of_triton_at_once(server: Process) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        with triton.InferenceServerClient(server.address) as client:
            for step in range(8):
                images = some_images(1 + (number + step) % 7, seed=100 * number + step)
                found = client.infer("tiny", asked(images)).as_numpy("probs")
                if not np.allclose(found, answers(images)[0], atol=1e-5):
                    failures.append((number, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_metrics_are_of_all_replicas(server: Process) -> None:
    for _ in range(5):
        with urllib.request.urlopen(f"http://{server.address}/metrics") as answer:  # ours
            text = answer.read().decode()
        assert re.search(r"^ensemble_replicas 2\.0$", text, re.MULTILINE)
        assert re.search(r'^ensemble_model_info{model="tiny",precision="fp32",.*} 2\.0$', text, re.MULTILINE)


def test_nothing_listens_but_on_loopback(server: Process) -> None:
    ours = family(server.process.pid)
    inodes = set()
    for pid in ours:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue  # closed meanwhile
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                listening.append(local.partition(":")[0])
    assert len(listening) > 5  # Ray's own, and the replicas'
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def flood(server: Process, images: Images, until: threading.Event) -> tuple[list[Floats], list[object]]:
    """Ask again and again from several threads; return the answers and the failures, in their order."""
    found: list[Floats] = []
    failures: list[object] = []

    def work() -> None:
        with triton.InferenceServerClient(server.address) as client:
            while not until.is_set():
                try:
                    found.append(client.infer("tiny", asked(images)).as_numpy("probs"))
                except (InferenceServerException, OSError) as error:
                    failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found, failures


def test_a_reload_under_load_loses_nothing(server: Process, graph: Path) -> None:
    images, until = some_images(3), threading.Event()
    before, after = answers(images)[0], answers(images, seed=1)[0]

    def reload() -> None:
        time.sleep(0.3)
        write_graph(graph, seed=1)
        server.send(signal.SIGHUP)
        server.wait_for_note("is rolled in")
        time.sleep(0.5)
        until.set()

    thread = threading.Thread(target=reload)
    thread.start()
    found, failures = flood(server, images, until)
    thread.join()
    assert failures == []
    kinds = [1 if np.allclose(one, after, atol=1e-5) else 0 for one in found]
    assert all(kind or np.allclose(one, before, atol=1e-5) for kind, one in zip(kinds, found, strict=True))
    assert (kinds[0], kinds[-1]) == (0, 1)
    assert len(found) > 50


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: path.write_text("nix"), "is not an ONNX graph"),
        (lambda path: write_graph(path, size=(9, 9)), "images of 9 x 9 pixels instead of 8 x 6"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_a_reload_that_cannot_be_is_one_line(
    server: Process, graph: Path, write: Callable[[Path], object], sentence: str
) -> None:
    whole, images = graph.read_bytes(), some_images(2)
    with triton.InferenceServerClient(server.address) as client:
        before = client.infer("tiny", asked(images)).as_numpy("probs")
        try:
            write(graph)
            server.send(signal.SIGHUP)
            line = server.wait_for_note(sentence)
        finally:
            graph.write_bytes(whole)
        assert line.startswith("error: ")
        assert line.endswith("; the model of before is still served")
        np.testing.assert_array_equal(client.infer("tiny", asked(images)).as_numpy("probs"), before)


def test_sigterm_answers_what_is_under_way_and_says_so_in_the_log(server: Process, tmp_path: Path) -> None:
    slow = write_graph(tmp_path / "slow.onnx", work=30)
    token = tmp_path / "token"
    token.write_text("let-me-in\n")
    statuses: list[int] = []
    body, headers = infer_body(some_images(1))

    def ask(address: str) -> None:
        request = urllib.request.Request(  # ours
            f"http://{address}/v2/models/other/infer",
            data=body,
            headers={**headers, "Authorization": "Bearer let-me-in"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            statuses.append(answer.status)

    options = ("--access-log", "--token-file", token, "--name", "other", "--max-batch", 1, "--threads", 1)
    with started(slow, *options, **server.cluster) as found:
        threads = [threading.Thread(target=ask, args=(found.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert len(statuses) < 4  # some are still under way
        assert found.end() == 0
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 4
    records = [json.loads(line) for line in found.notes]
    assert [record["status"] for record in records] == [200] * 4


def wait_for_the_end_of(processes: set[int]) -> None:
    deadline = time.monotonic() + 30
    while left := [pid for pid in processes if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.slow  # `tests/export/serve/test_foreground.py` has the reaper without Ray
def test_nothing_stays_behind_a_server_that_is_killed(graph: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,  # Ray's sockets have short names only
        started(graph, environment={"TMPDIR": scratch}) as found,
    ):
        processes = family(found.process.pid)
        assert len(processes) > 5
        assert found.end(signal.SIGKILL) == -signal.SIGKILL
        assert list(Path(scratch).glob("ensemble-serve-*")) != []
        wait_for_the_end_of(processes)
        assert list(Path(scratch).glob("ensemble-serve-*")) == []


@pytest.mark.slow
def test_thousands_of_mixed_requests(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "tiny.onnx", size=(32, 32))
    with started(path) as found:
        report = asyncio.run(mix(found.port, "tiny", path, 2000, found.process.pid))
    assert report["wrong"] == 0, report["first_wrong"]
    assert sum(report["statuses"].values()) == 2000
    assert sum(count for status, count in report["statuses"].items() if status != "200") > 50
    assert max(report["memory_growth"].values()) < 0.05


@pytest.fixture(scope="module")
def refusals(server: Process, graph: Path) -> Iterator[dict[str, "Future[tuple[int, str, str]]"]]:
    """What comes of graphs that cannot be served, each in a server of its own, at the same time."""
    unknown, failing = onnx.load(str(graph)), onnx.load(str(graph))
    unknown.graph.node[0].op_type = "Nix"
    shape = next(constant for constant in failing.graph.initializer if constant.name == "shape")
    shape.CopyFrom(numpy_helper.from_array(np.array([0, 3, 11]), "shape"))  # of 30 numbers: nobody sees it but the run
    for output in failing.graph.output:
        output.type.tensor_type.ClearField("shape")
    with ThreadPoolExecutor(2) as pool:
        found = {}
        for name, model in (("unknown", unknown), ("failing", failing)):
            path = graph.with_name(f"{name}.onnx")
            onnx.save(model, str(path))
            found[name] = pool.submit(run, path, "--port", 0, "--threads", 1, **server.cluster)
        yield found


def test_a_graph_that_cannot_be_run_is_one_line_that_names_it(refusals: dict[str, Any], graph: Path) -> None:
    code, out, err = refusals["unknown"].result()
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {graph.with_name('unknown.onnx')} cannot be run by ONNX Runtime: ")
    assert err.count("\n") == 1


def test_a_replica_that_fails_says_so_at_once(refusals: dict[str, Any]) -> None:
    code, out, err = refusals["failing"].result()  # within a minute, or `run` raises
    assert (code, out) == (1, "")
    assert err.startswith("error: a replica failed to load the model: ")
    assert "Reshape" in err
    assert err.count("\n") == 1


@pytest.mark.slow  # `tests/export/serve/test_board.py` has it without Ray
def test_a_replica_that_is_killed_while_it_loads(server: Process, tmp_path: Path) -> None:
    slow, others = write_graph(tmp_path / "slow.onnx", work=10_000), family(server.process.pid)

    def kill() -> None:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            for pid in family(server.process.pid) - others:
                if b"ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    time.sleep(2)  # it has begun by now
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    code, out, err = run(slow, "--port", 0, "--threads", 1, **server.cluster)
    thread.join()
    assert (code, out) == (1, "")
    assert err == "error: a replica ended while it loaded the model: was it killed, or is memory too small?\n"


def test_a_file_for_the_process_that_is_taken(server: Process, graph: Path) -> None:
    code, out, err = run(graph, "--port", 0, "--pid-file", graph.with_suffix(".pid"))
    assert (code, out) == (2, "")
    assert err.endswith(f"is of process {server.process.pid}, which is running: stop it, or give another file\n")
    assert err.count("\n") == 1


def test_a_port_that_is_taken(server: Process, graph: Path) -> None:
    code, out, err = run(graph, "--port", server.port)
    assert (code, out) == (2, "")
    assert err == f"error: --port {server.port} cannot be used on 127.0.0.1: Address already in use\n"
