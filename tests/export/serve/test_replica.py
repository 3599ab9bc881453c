"""Replicas at a board, in this process: started, reloaded, counted together, orphaned, ended."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from export.serve.board import Board
from export.serve.limits import Limits
from export.serve.listener import reserve
from export.serve.replica import Lost, Plan, Replica
from export.serve.served import How, load
from tests.export.serve.conftest import answers, infer_body, some_images, write_graph

HOW = How(device="cpu", threads=1, largest=2)


class Desk:
    """A board in a thread, as replicas reach it; `gone` once its owner has died."""

    def __init__(self, path: Path) -> None:
        self.mark = path.parent.with_suffix(".mark")
        self.mark.touch()
        self.board = Board(str(path), str(self.mark))
        self.gone = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        if self.gone:
            raise Lost
        return asyncio.run_coroutine_threadsafe(getattr(self.board, method)(*arguments), self._loop).result(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr("export.serve.replica._BEAT", 0.05)
    monkeypatch.setattr("export.serve.replica._PATIENCE", 0.2)
    monkeypatch.setattr("export.serve.replica._HEARD", 0.3)
    found = Desk(write_graph(tmp_path / "tiny.onnx"))
    yield found
    found.close()


@pytest.fixture
def start(desk: Desk) -> Iterator[Callable[..., Replica]]:
    """A function that starts a replica; all share a port."""
    held = reserve("127.0.0.1", 0)
    started: list[Replica] = []

    def one(**more: Any) -> Replica:  # noqa: ANN401
        plan = Plan("tiny", "127.0.0.1", held.getsockname()[1], HOW, Limits(max_batch=4), **more)
        started.append(Replica(desk, plan))
        return started[-1]

    one.port = held.getsockname()[1]  # type: ignore[attr-defined]
    yield one
    for replica in started:
        assert replica.close()
    held.close()


def url(start: Callable[..., Replica], path: str) -> str:
    return f"http://127.0.0.1:{start.port}{path}"  # type: ignore[attr-defined]


def probs(start: Callable[..., Replica], number: int = 2) -> Any:  # noqa: ANN401
    body, headers = infer_body(some_images(number))
    found = httpx2.post(url(start, "/v2/models/tiny/infer"), content=body, headers=headers)
    assert found.status_code == 200
    return np.array(found.json()["outputs"][0]["data"]).reshape(number, 10)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_replica_serves_what_the_board_has(desk: Desk, start: Callable[..., Replica]) -> None:
    replica = start()
    assert desk("verdicts", 1, 1, 10) == [""]
    np.testing.assert_allclose(probs(start), answers(some_images(2))[0], atol=1e-5)
    replica.check()
    assert replica.load() == 0
    assert desk("serving") == 1


def test_all_replicas_are_counted_whoever_is_asked(desk: Desk, start: Callable[..., Replica]) -> None:
    replicas = [start() for _ in range(3)]
    assert desk("verdicts", 1, 3, 10) == [""] * 3
    for _ in range(20):
        probs(start)

    def counted() -> dict[str, float]:
        text = httpx2.get(url(start, "/metrics")).text
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples}

    until(lambda: counted()["ensemble_images_total"] == 40)
    assert counted()["ensemble_replicas"] == 3
    replicas[0].close()
    until(lambda: counted()["ensemble_replicas"] == 2)
    assert [counted()["ensemble_images_total"] for _ in range(5)] == [40] * 5


def test_a_reload_changes_all_replicas_at_once(desk: Desk, start: Callable[..., Replica], tmp_path: Path) -> None:
    for _ in range(2):
        start()
    assert desk("verdicts", 1, 2, 10) == ["", ""]
    before, after = answers(some_images(2))[0], answers(some_images(2), seed=1)[0]
    version = desk("propose", str(write_graph(tmp_path / "next.onnx", seed=1)))
    assert desk("verdicts", version, 2, 10) == ["", ""]
    np.testing.assert_allclose(probs(start), before, atol=1e-5)  # loaded, and not served yet
    assert "\nensemble_reloads_total 0.0\n" in httpx2.get(url(start, "/metrics")).text
    desk("settle", version, True)
    assert "\nensemble_reloads_total 1.0\n" in httpx2.get(url(start, "/metrics")).text
    until(lambda: np.allclose(probs(start), after, atol=1e-5))
    time.sleep(0.3)
    for _ in range(6):
        np.testing.assert_allclose(probs(start), after, atol=1e-5)
    replica = start()  # and who comes later
    until(lambda: desk("serving") == 3)
    replica.check()


@pytest.mark.parametrize(
    ("other", "sentence"), [({"classes": tuple("abcdefghij")}, "has other classes"), (None, "is not an ONNX graph")]
)
def test_a_reload_that_is_refused_changes_nothing(
    desk: Desk, start: Callable[..., Replica], tmp_path: Path, other: dict[str, Any] | None, sentence: str
) -> None:
    start()
    assert desk("verdicts", 1, 1, 10) == [""]
    path = tmp_path / "next.onnx"
    if other is None:
        path.write_text("nix")
    else:
        write_graph(path, **other)
    version = desk("propose", str(path))
    (error,) = desk("verdicts", version, 1, 10)
    assert sentence in error
    desk("settle", version, False)
    time.sleep(0.3)
    np.testing.assert_allclose(probs(start), answers(some_images(2))[0], atol=1e-5)


def test_a_model_that_cannot_be_loaded(desk: Desk, start: Callable[..., Replica], tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_text("nix")
    replica = start()
    (error,) = desk("verdicts", 1, 1, 10)
    assert "is not an ONNX graph" in error
    replica.check()  # not yet: who started it is about to hear why
    time.sleep(0.4)
    with pytest.raises(RuntimeError, match="is not an ONNX graph"):
        replica.check()
    assert replica.load() == 0


def test_an_error_that_nobody_expected_is_told_as_well(
    desk: Desk, start: Callable[..., Replica], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    wanted = "a replica failed to load the model: ZeroDivisionError: nothing to divide by"
    start()
    assert desk("verdicts", 1, 1, 10) == [""]
    monkeypatch.setattr("export.serve.served.load", fail)
    version = desk("propose", str(write_graph(tmp_path / "next.onnx", seed=1)))
    assert desk("verdicts", version, 1, 10) == [wanted]
    desk("settle", version, False)
    np.testing.assert_allclose(probs(start), answers(some_images(2))[0], atol=1e-5)  # and serves on
    monkeypatch.setattr("export.serve.replica.load", fail)
    start()
    until(lambda: wanted in desk("verdicts", 1, 2, 10))


def test_who_is_closed_while_loading_never_listens(
    start: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go = threading.Event(), threading.Event()

    def slow(path: Path, how: How) -> Any:  # noqa: ANN401
        loading.set()
        assert go.wait(10)
        return load(path, how)

    monkeypatch.setattr("export.serve.replica.load", slow)
    replica = start()
    assert loading.wait(10)
    assert replica.close()
    go.set()
    until(lambda: "orders" not in {thread.name for thread in threading.enumerate()})
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url(start, "/v2"))


def test_a_machine_without_the_file_fetches_it(desk: Desk, start: Callable[..., Replica]) -> None:
    desk.mark.unlink()  # so this is not the board's machine
    start()
    assert desk("verdicts", 1, 1, 10) == [""]
    np.testing.assert_allclose(probs(start), answers(some_images(2))[0], atol=1e-5)


def test_errors_name_the_boards_files(desk: Desk, start: Callable[..., Replica], tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_text("nix")
    desk.mark.unlink()
    start()
    assert desk("verdicts", 1, 1, 10) == [f"{tmp_path / 'tiny.onnx'} is not an ONNX graph"]


def test_without_a_board_nobody_is_served(desk: Desk) -> None:
    orphaned = threading.Event()
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        replica = Replica(desk, Plan("tiny", "127.0.0.1", port, HOW, Limits()), orphaned.set)
        assert desk("verdicts", 1, 1, 10) == [""]
        assert httpx2.get(f"http://127.0.0.1:{port}/v2").status_code == 200
        desk.gone = True
        assert orphaned.wait(10)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"http://127.0.0.1:{port}/v2")
        replica.check()
        assert replica.close()


def test_lines_of_the_log_reach_the_board(desk: Desk, start: Callable[..., Replica]) -> None:
    start(log=True)
    assert desk("verdicts", 1, 1, 10) == [""]
    assert httpx2.get(url(start, "/nix")).status_code == 404
    (line,) = desk("lines", 10)
    assert '"path": "/nix"' in line


def test_why_a_request_failed_reaches_the_board(
    desk: Desk, start: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("export.serve.batcher.Batcher.submit", fail)
    start()  # and nobody asked for a log of requests
    assert desk("verdicts", 1, 1, 10) == [""]
    body, headers = infer_body(some_images(2))
    assert httpx2.post(url(start, "/v2/models/tiny/infer"), content=body, headers=headers).status_code == 500
    (line,) = desk("lines", 10)
    record = json.loads(line)
    assert record["message"] == "a request failed"
    assert record["error"] == "ZeroDivisionError: nothing to divide by"
    assert "in fail" in record["traceback"]


def test_a_replica_that_was_given_up_asks_for_another_in_its_place(desk: Desk, start: Callable[..., Replica]) -> None:
    replica = start()
    assert desk("verdicts", 1, 1, 10) == [""]
    desk.board._replicas.clear()  # as if it had been silent

    def failed() -> bool:
        try:
            replica.check()
        except RuntimeError as error:
            return "given up" in str(error)
        return False

    until(failed)


def test_a_picture_goes_all_the_way(desk: Desk, start: Callable[..., Replica]) -> None:
    start()
    assert desk("verdicts", 1, 1, 10) == [""]
    file = io.BytesIO()
    Image.fromarray(some_images(1)[0]).resize((50, 70)).save(file, "WEBP")
    found = httpx2.post(url(start, "/classify"), files={"picture": ("cat.webp", file.getvalue())}).json()
    assert len(found["members"]) == 3
    assert found["top"][0]["prob"] <= 1
