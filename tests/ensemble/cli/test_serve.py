"""`ensemble serve` as a process on Ray Serve, asked by Triton's client."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from benchmarks.serving import mix
from tests.ensemble.cli.serving import PROGRAM, ROOT, Process, family, is_running, started
from tests.export.serve.conftest import SIZE, Floats, Images, answers, infer_body, some_images, write_graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("served") / "tiny.onnx")


@pytest.fixture(scope="module")
def server(graph: Path) -> Iterator[Process]:
    """One server for most tests of this file."""
    with started(graph, "--replicas", 2, "--threads", 1, "--max-batch", 16) as found:
        yield found
        assert found.end() == 0


def asked(images: Images, *, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


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


def test_tritons_client_finds_a_server_and_its_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tony")
    assert client.get_server_metadata()["name"] == "menagerie"
    metadata = client.get_model_metadata("tiny", "1")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, *SIZE, 3]}]


@pytest.mark.parametrize("binary", [(True, True), (False, False), (True, False), (False, True)])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_tritons_client_infers(
    client: triton.InferenceServerClient, binary: tuple[bool, bool], encoding: str | None
) -> None:
    images = some_images(5)
    found = client.infer(
        "tiny",
        asked(images, binary=binary[0]),
        outputs=[triton.InferRequestedOutput(name, binary_data=binary[1]) for name in ("member_probs", "probs")],
        request_id="abc",
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    probs, own = answers(images)
    np.testing.assert_allclose(found.as_numpy("probs"), probs, atol=1e-5)
    np.testing.assert_allclose(found.as_numpy("member_probs"), own, atol=1e-5)
    assert found.get_response()["id"] == "abc"


def test_tritons_client_asks_for_all_outputs_one_or_classes(client: triton.InferenceServerClient) -> None:
    images = some_images(2)
    both = client.infer("tiny", asked(images), model_version="1", parameters={"whatever": 1}, priority=2)
    assert both.as_numpy("member_probs").shape == (2, 3, 10)
    one = client.infer("tiny", asked(images), outputs=[triton.InferRequestedOutput("probs")])
    assert one.as_numpy("member_probs") is None
    top = client.infer("tiny", asked(images), outputs=[triton.InferRequestedOutput("probs", class_count=1)])
    indices = [int(text.decode().split(":")[1]) for text in top.as_numpy("probs").ravel()]
    assert indices == answers(images)[0].argmax(1).tolist()


def test_tritons_client_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    for model, images, sentence in (
        ("tony", some_images(1), "there is no model 'tony'"),
        ("tiny", some_images(17), "17 images are too many: send at most 16"),
        (
            "tiny",
            np.zeros((1, 3, *SIZE), np.uint8),
            r"shape of 'images' is \[1, 3, 8, 6\]: the model takes \[N, 8, 6, 3\]",
        ),
    ):
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer(model, asked(images))


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


def test_sigterm_answers_what_is_under_way_and_says_so_in_the_log(tmp_path: Path) -> None:
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

    with started(slow, "--access-log", "--token-file", token, "--name", "other", "--max-batch", 1) as found:
        threads = [threading.Thread(target=ask, args=(found.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert len(statuses) < 4  # some are still under way
        processes = family(found.process.pid) - {found.process.pid}
        assert found.end() == 0
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 4
    records = [json.loads(line) for line in found.notes]
    assert [record["status"] for record in records] == [200] * 4
    wait_for_the_end_of(processes)


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
        report = asyncio.run(mix(found.port, "tiny", path, 2000))
    assert report["wrong"] == 0, report["first_wrong"]
    assert sum(report["statuses"].values()) == 2000
    assert sum(count for status, count in report["statuses"].items() if status != "200") > 50
    assert report["memory_growth"] < 0.05


def run(*words: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_graph_that_cannot_be_run_is_one_line_that_names_it(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(str(graph))
    model.graph.node[0].op_type = "Nix"
    onnx.save(model, str(tmp_path / "bad.onnx"))
    code, out, err = run(tmp_path / "bad.onnx", "--port", 0)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'bad.onnx'} cannot be run by ONNX Runtime: ")
    assert err.count("\n") == 1


def test_a_port_that_is_taken(server: Process, graph: Path) -> None:
    code, out, err = run(graph, "--port", server.port)
    assert (code, out) == (2, "")
    assert err == f"error: --port {server.port} cannot be used on 127.0.0.1: Address already in use\n"
