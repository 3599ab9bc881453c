"""What becomes of a server over time: faults, load, a wish to stop in the middle of a reload, and what stays behind."""

import http.client
import json
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.ensemble.cli.serving import SHARED, Process, started
from tests.export.serve.conftest import Images, infer_body, some_images, write_graph

QUICK = """
from export.serve import cluster
cluster._UP, cluster._DOWN = 1.0, 3.0
"""


def ask(server: Process, images: Images) -> int:
    """Send images on a connection of its own, and return the answer's status."""
    body, headers = infer_body(images)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{server.ready['model']}/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer.status


def metric(server: Process, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        found = re.search(rf"^{name} (\S+)$", connection.getresponse().read().decode(), re.MULTILINE)
    finally:
        connection.close()
    assert found is not None
    return float(found[1])


def write_failing_graph(path: Path) -> Path:
    """Write a graph that fails for every picture that is not black, as those are that it is warmed up with."""
    model = onnx.load(str(write_graph(path)))
    nodes = model.graph.node
    at = next(number for number, node in enumerate(nodes) if "nothing" in node.output)
    nodes[at].input[0] = "least_of_all"
    nodes.insert(at, helper.make_node("Add", ["least", "picked"], ["least_of_all"]))
    nodes.insert(at, helper.make_node("Gather", ["zero", "index"], ["picked"]))
    nodes.insert(at, helper.make_node("Cast", ["scale"], ["index"], to=TensorProto.INT64))
    onnx.save(model, str(path))
    return path


def test_a_fault_is_told_and_a_wish_to_stop_waits_for_no_reload(tmp_path: Path) -> None:
    path = write_failing_graph(tmp_path / "tiny.onnx")
    with (
        tempfile.TemporaryDirectory() as scratch,  # Ray's sockets have short names only
        started(path, "--threads", 1, "--quiet", environment={"TMPDIR": scratch}) as server,
    ):
        assert ask(server, 0 * some_images(2)) == 200
        assert ask(server, some_images(2)) == 500
        record = json.loads(server.wait_for_note("traceback"))  # and nobody asked for a log of requests
        assert record["message"] == "a request failed"
        assert "Gather" in record["error"]
        assert len(list(Path(scratch, "ray").glob("session_*"))) == 2  # of which one is a link
        write_graph(path, work=20_000)
        server.send(signal.SIGHUP)
        time.sleep(1)
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 15  # it would take minutes
        assert list(Path(scratch, "ray").glob("session_*")) == []
        assert [line for line in server.notes if not line.startswith("{")] == []


@pytest.mark.slow
def test_replicas_come_and_go_with_the_load_and_every_request_is_answered(tmp_path: Path) -> None:
    path, until = write_graph(tmp_path / "tiny.onnx", work=2), threading.Event()
    statuses: Counter[int] = Counter()

    def work() -> None:
        while not until.is_set():
            statuses[ask(server, some_images(1))] += 1

    def wait_for(replicas: int) -> None:
        deadline = time.monotonic() + 60
        while metric(server, "ensemble_replicas") != replicas:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    options = ("--replicas", "1-2", "--threads", 1, "--max-batch", 1)
    environment = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 4}'}
    with started(path, *options, environment=environment, before=QUICK) as server:
        assert metric(server, "ensemble_replicas") == 1
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_for(2)
            time.sleep(1)
        finally:
            until.set()
            for thread in threads:
                thread.join(60)
        until.clear()
        few = threading.Thread(target=work)  # one at a time, and also while a replica goes
        few.start()
        try:
            wait_for(1)
        finally:
            until.set()
            few.join(60)
        assert set(statuses) == {200}
        assert sum(statuses.values()) > 50
        assert server.end() == 0


@pytest.mark.slow
def test_replicas_on_loopback_of_other_machines_are_worth_a_warning(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "tiny.onnx")
    others = "from export.serve import cluster; cluster.other_machines = lambda ray: ['10.0.0.2', '10.0.0.3']"
    with started(path, "--threads", 1, environment=SHARED, before=others) as server:
        assert server.notes == []  # it is a Ray of its own
        with started(path, "--threads", 1, before=others, **server.cluster) as second:
            (line,) = second.notes
            assert line == (
                "warning: replicas on other machines (10.0.0.2, 10.0.0.3) listen on their own 127.0.0.1, where nobody"
                " reaches them: give --host 0.0.0.0"
            )
        with started(path, "--threads", 1, "--host", "0.0.0.0", before=others, **server.cluster) as third:  # noqa: S104
            assert all("whoever reaches" in line for line in third.notes)


@pytest.mark.slow  # `tests/export/serve/test_board.py` has it without Ray
def test_metrics_of_a_server_that_is_reloaded(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "tiny.onnx")
    with started(path, "--replicas", 2, "--threads", 1, environment={"RAY_OVERRIDE_RESOURCES": '{"CPU": 4}'}) as server:
        server.send(signal.SIGHUP)
        server.wait_for_note("is rolled in")
        assert [metric(server, "ensemble_reloads_total") for _ in range(5)] == [1] * 5
