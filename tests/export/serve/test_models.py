"""Copies of models: on this machine, and on one that has no file of them."""

from pathlib import Path

import pytest

from export.serve import models
from export.serve.models import check_model, copy_model, fetch_model, model_files, read_chunk
from tests.conftest import files_up_to
from tests.export.serve.conftest import write_graph
from zoo.errors import CorruptError, NotFoundError, StorageError


def folder_of_stages(path: Path) -> Path:
    (path / "deeper").mkdir(parents=True)
    for name in ("stage1.onnx", "stage2.onnx", "deeper/x"):
        (path / name).write_text(name)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in model_files(path)}


def test_a_graph_with_external_data(tmp_path: Path) -> None:
    graph = tmp_path / "m.onnx"
    graph.write_text("graph")
    assert model_files(graph) == [graph]
    (tmp_path / "m.onnx.data").write_text("weights")
    (tmp_path / "other.onnx").write_text("other")
    assert contents(copy_model(graph, tmp_path / "copy")) == {"m.onnx": b"graph", "m.onnx.data": b"weights"}


def test_a_folder(tmp_path: Path) -> None:
    source = folder_of_stages(tmp_path / "cascade")
    copy = copy_model(source, tmp_path / "copy")
    assert copy == tmp_path / "copy" / "cascade"
    assert contents(copy) == contents(source)
    assert len(contents(copy)) == 3


def test_a_copy_does_not_change_with_the_file(tmp_path: Path) -> None:
    graph = tmp_path / "m.onnx"
    graph.write_text("before")
    copy = copy_model(graph, tmp_path / "copy")
    with graph.open("r+") as file:  # in place, as `cp` writes
        file.write("after")
    assert copy.read_text() == "before"


def test_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"m\.onnx does not exist"):
        copy_model(tmp_path / "m.onnx", tmp_path / "copy")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_full_disk(tmp_path: Path, is_folder: bool) -> None:
    source = tmp_path / "m"
    source = folder_of_stages(source) if is_folder else source
    if not is_folder:
        source.write_bytes(bytes(10_000))
    with files_up_to(5), pytest.raises(StorageError, match=r"cannot be copied to .*copy"):
        copy_model(source, tmp_path / "copy")


@pytest.mark.parametrize("is_folder", [False, True])
def test_another_machine_gets_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool) -> None:
    monkeypatch.setattr(models, "CHUNK", 4)
    source = tmp_path / "m.onnx"
    if is_folder:
        folder_of_stages(source)
    else:
        source.write_bytes(b"0123456789")
        source.with_name("m.onnx.data").write_bytes(b"")
    names = list(contents(source))
    there = fetch_model(names, lambda name, offset: read_chunk(source, name, offset), tmp_path / "there")
    assert contents(there) == contents(source)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "other.onnx", "m.onnx/../other.onnx"])
def test_nothing_but_the_model_is_read(tmp_path: Path, name: str) -> None:
    for file in ("m.onnx", "other.onnx"):
        (tmp_path / file).write_text("x")
    with pytest.raises(NotFoundError, match="has no file"):
        read_chunk(tmp_path / "m.onnx", name, 0)


def test_models_are_looked_at_before_they_are_served(tmp_path: Path) -> None:
    check_model(write_graph(tmp_path / "m.onnx"))
    check_model(folder_of_stages(tmp_path / "cascade"))
    with pytest.raises(NotFoundError, match=r"nix\.onnx' does not exist: give a graph"):
        check_model(tmp_path / "nix.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="is an empty folder"):
        check_model(tmp_path / "empty")
    (tmp_path / "bad.onnx").write_text("no graph")
    with pytest.raises(CorruptError, match="is not an ONNX graph"):
        check_model(tmp_path / "bad.onnx")


def test_a_graph_of_somebody_else(tmp_path: Path) -> None:
    import onnx

    path = write_graph(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(CorruptError, match="was not exported by `ensemble export`"):
        check_model(path)
