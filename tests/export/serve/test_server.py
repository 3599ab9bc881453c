"""Reloads as the command asks for them, without Ray."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export.serve.server import Server
from tests.export.serve.conftest import write_graph
from zoo.errors import DataError

Verdict = list[str] | None


class Desk:
    """A board that gives the same answers to everybody, and keeps what it was called for."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)
        self.calls: list[tuple[object, ...]] = []

    def __call__(self, method: str, *arguments: object) -> object:
        self.calls.append((method, *arguments))
        if method == "verdicts":
            return self.verdicts.pop(0) if self.verdicts else None
        return 2 if method == "propose" else None

    def settled(self) -> object:
        return self.calls[-1]


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Desk], Server]:
    path = write_graph(tmp_path / "tiny.onnx")
    copy = tmp_path / "run" / "model-1" / "tiny.onnx"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    return lambda desk: Server(desk, path, copy, 1)


def copies(tmp_path: Path) -> list[str]:
    return sorted(folder.name for folder in (tmp_path / "run").iterdir())


def test_a_reload_that_is_good(start: Callable[[Desk], Server], tmp_path: Path) -> None:
    desk = Desk(None, ["", ""])
    assert start(desk).reload(tmp_path / "tiny.onnx") is True
    assert desk.settled() == ("settle", 2, True)
    assert copies(tmp_path) == ["model-2"]


def test_a_reload_that_is_refused(start: Callable[[Desk], Server], tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    desk = Desk(["", f"{tmp_path}/run/model-2/tiny.onnx has other classes"])
    with pytest.raises(DataError, match=f"^{path} has other classes$"):
        start(desk).reload(path)
    assert desk.settled() == ("settle", 2, False)
    assert copies(tmp_path) == ["model-1"]


def test_who_wants_to_stop_does_not_wait_for_a_reload(start: Callable[[Desk], Server], tmp_path: Path) -> None:
    desk = Desk(None, None, None)  # replicas take their time

    def stopped() -> bool:
        return len(desk.verdicts) < 2

    assert start(desk).reload(tmp_path / "tiny.onnx", stopped) is False
    assert len(desk.verdicts) == 1
    assert desk.settled() == ("settle", 2, False)
    assert copies(tmp_path) == ["model-1"]
