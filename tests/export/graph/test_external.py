"""Weights beside their graph: whoever looks, at whatever moment, finds a graph with its own."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from ensemble.lockfile import Committee
from export.graph.external import is_weights_of, weights_name
from export.pipeline import export
from export.runtime import Session
from tests.export.conftest import EXACT, order_of, torch_says
from zoo.data import Split
from zoo.errors import StorageError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def other(workshop: "Workshop") -> Committee:
    """Another committee than `one`, with other weights."""
    return workshop.committee("a", "none", "probs", 1.0)


def put(committee: Committee, target: Path, external_from: int = 1000) -> set[str]:
    """Export a committee, and return the names of its files."""
    return {file.name for file in export(order_of(committee, external_from=external_from), target).files}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def is_of(path: Path, committee: Committee, seen: Split) -> bool:
    return np.allclose(Session(path, device="cpu").run(seen.images), torch_says(committee, seen.images)[0], atol=EXACT)


def test_what_weights_are_called() -> None:
    name = weights_name("m.onnx", "0123456789abcdef" * 4)
    assert name == "m.onnx.0123456789abcdef.data"
    ours = [name, "m.onnx.data"]
    others = ["m.onnx", "mXonnx.data", "m.onnx.01.data", f"a{name}", f"{name}\n", "x.onnx.data", "m.onnx.notes.data"]
    assert [is_weights_of(one, "m.onnx") for one in ours + others] == [True] * 2 + [False] * 7


def test_an_export_over_an_older_one(one: Committee, other: Committee, seen: Split, place: Path) -> None:
    target, unrelated = place / "m.onnx", {"m.onnx.data", "m.onnx.0123456789abcdef.data", "x.data"}
    for name in unrelated:
        (place / name).write_text("of something else")
    first = put(one, target)
    assert len(first) == 2
    assert names(place) == first | unrelated
    assert is_of(target, one, seen)
    assert put(one, target) == first, "equal weights have equal names"
    second = put(other, target)
    assert names(place) == second | unrelated
    assert first & second == {"m.onnx"}
    assert is_of(target, other, seen)
    onnx.checker.check_model(str(target), full_check=True)
    assert put(one, target, 10**9) == {"m.onnx"}
    assert names(place) == {"m.onnx"} | unrelated, "weights that no graph reads are gone"


def test_files_that_are_not_its_own_stay(one: Committee, other: Committee, place: Path) -> None:
    """A graph may name any file: what is removed has the name of its weights, and lies beside it."""
    shared, target = place / "a.onnx", place / "m.onnx"
    weights = put(one, shared) - {"a.onnx"}
    shutil.copy(shared, target)
    files = put(other, target)
    assert names(place) == files | {"a.onnx"} | weights, "another graph reads them, too"

    model = onnx.load(target, load_external_data=False)
    (place / "below").mkdir()
    for tensor, name in zip(model.graph.initializer, ("../m.onnx.data", "notes.txt", "m.onnx.data"), strict=False):
        (place / "below" / name).write_text("somebody's")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=name)
    (place / "below" / "m.onnx").write_bytes(model.SerializeToString())
    files = put(one, place / "below" / "m.onnx")
    assert names(place / "below") == files | {"notes.txt"}
    assert (place / "m.onnx.data").exists()


def test_weights_of_the_name_of_before(one: Committee, other: Committee, seen: Split, place: Path) -> None:
    """`m.onnx.data`, as graphs had it once, goes with its graph."""
    target = place / "m.onnx"
    put(one, target)
    model = onnx.load(target)
    onnx.save(model, target, save_as_external_data=True, location="m.onnx.data", convert_attribute=False)
    for file in place.glob("m.onnx.*.data"):
        file.unlink()
    assert is_of(target, one, seen)
    second = put(other, target)
    assert names(place) == second


def watch(monkeypatch: pytest.MonkeyPatch, target: Path, then: Callable[[], None]) -> None:
    """Call a function when a graph is about to be renamed to its place."""
    real = os.replace

    def replace(source: os.PathLike[str] | str, destination: os.PathLike[str] | str) -> None:
        if Path(destination) == target:
            then()
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)


def test_between_weights_and_graph_the_old_model_is_whole(
    one: Committee, other: Committee, seen: Split, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever reads then, or starts again after a crash there, finds it."""
    target, snapshot = place / "m.onnx", place / "snapshot"
    first = put(one, target)

    def look() -> None:
        snapshot.mkdir()
        for file in place.glob("m.onnx*"):
            shutil.copy(file, snapshot)

    watch(monkeypatch, target, look)
    second = put(other, target)
    assert names(snapshot) == first | second
    assert is_of(snapshot / "m.onnx", one, seen)
    assert is_of(target, other, seen)
    monkeypatch.undo()
    assert put(other, snapshot / "m.onnx") == second, "and it can be done again"
    assert names(snapshot) == second


@pytest.mark.parametrize("same", [False, True])
def test_a_disk_that_refuses_the_graph(
    one: Committee, other: Committee, seen: Split, place: Path, monkeypatch: pytest.MonkeyPatch, *, same: bool
) -> None:
    target = place / "m.onnx"
    first = put(one, target)
    before = {name: (place / name).read_bytes() for name in first}

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    watch(monkeypatch, target, refuse)
    with pytest.raises(StorageError, match=r"^cannot write .*m\.onnx: No space left on device$"):
        put(one if same else other, target)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
    assert is_of(target, one, seen)
