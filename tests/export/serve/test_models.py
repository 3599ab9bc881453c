"""Copies of models: on this machine, and on one that has no file of them."""

from pathlib import Path

import onnx
import pytest

from export.metadata import About, metadata_props
from export.serve import models
from export.serve.models import check_model, copied_files, copy_model, fetch_model, model_files, read_chunk
from tests.conftest import files_up_to
from tests.export.serve.conftest import lockfile, write_graph
from zoo.errors import CorruptError, NotFoundError, StorageError, UsageError


def folder_of_stages(path: Path) -> Path:
    """Write a folder with two stages, and more."""
    (path / "deeper").mkdir(parents=True)
    for stage in (1, 2):
        file = write_graph(path / f"stage{stage}.onnx", seed=stage)
        model = onnx.load(str(file))
        onnx.compose.add_prefix_graph(model.graph, "log_", rename_inputs=False, inplace=True)  # its output is log_probs
        onnx.helper.set_model_props(model, metadata_props(About(lockfile(), "fp32", 18, stage)))
        onnx.save(model, str(file))
    for name in ("stage4.onnx", "letters", "deeper/x"):
        (path / name).write_text("private")
    return path


def graph_with_weights(path: Path, weights: str) -> Path:
    """Write a graph whose weights are in another file."""
    model = onnx.load(str(write_graph(path)))
    onnx.save_model(model, str(path), save_as_external_data=True, location=weights, size_threshold=0)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in model_files(path)}


def test_a_graph_alone(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").write_text("of something else")
    assert model_files(graph) == [graph]


def test_weights_are_where_the_graph_says(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    graph_with_weights(source / "m.onnx", "a.data").rename(source / "renamed.onnx")
    copy = copy_model(source / "renamed.onnx", tmp_path / "copy")
    assert copied_files(tmp_path / "copy") == ["a.data", "renamed.onnx"]
    assert contents(copy) == contents(source / "renamed.onnx")
    (source / "a.data").unlink()
    with pytest.raises(CorruptError, match=r"renamed\.onnx has its weights in 'a\.data', which is not there"):
        check_model(source / "renamed.onnx")


def test_of_a_folder_the_stages_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of_stages(tmp_path / "cascade")
    copy = copy_model(source, tmp_path / "copy")
    assert copy == tmp_path / "copy" / "cascade"
    assert contents(copy) == contents(source)
    assert copied_files(tmp_path / "copy") == ["cascade/stage1.onnx", "cascade/stage2.onnx"]
    monkeypatch.chdir(source)
    assert copy_model(Path(), tmp_path / "again") == tmp_path / "again" / "cascade"


def test_a_copy_does_not_change_with_the_file(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "m.onnx")
    before = graph.read_bytes()
    copy = copy_model(graph, tmp_path / "copy")
    with graph.open("r+") as file:  # in place, as `cp` writes
        file.write("after")
    assert copy.read_bytes() == before


def test_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"m\.onnx' does not exist"):
        copy_model(tmp_path / "m.onnx", tmp_path / "copy")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_full_disk(tmp_path: Path, is_folder: bool) -> None:
    source = tmp_path / "m"
    source = folder_of_stages(source) if is_folder else write_graph(source)
    with files_up_to(5), pytest.raises(StorageError, match=r"cannot be copied to .*copy"):
        copy_model(source, tmp_path / "copy")


@pytest.mark.parametrize("is_folder", [False, True])
def test_another_machine_gets_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool) -> None:
    monkeypatch.setattr(models, "CHUNK", 100_000)
    path = tmp_path / "m.onnx"
    source = folder_of_stages(path) if is_folder else graph_with_weights(path, "a.data")
    copy, there = copy_model(source, tmp_path / "copy"), tmp_path / "there"
    names = copied_files(copy.parent)
    fetch_model(names, lambda name, offset: read_chunk(copy.parent, name, offset), there)
    assert contents(there / "m.onnx") == contents(source)
    assert len(names) == 2


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "other.onnx", "m.onnx/../other.onnx"])
def test_nothing_but_the_model_is_read(tmp_path: Path, name: str) -> None:
    for file in ("other.onnx", "secret"):
        (tmp_path / file).write_text("x")
    copy_model(write_graph(tmp_path / "m.onnx"), tmp_path / "copy")
    with pytest.raises(NotFoundError, match="has no file"):
        read_chunk(tmp_path / "copy", name, 0)


def test_models_are_looked_at_before_they_are_served(tmp_path: Path) -> None:
    check_model(write_graph(tmp_path / "m.onnx"))
    check_model(folder_of_stages(tmp_path / "cascade"))
    with pytest.raises(NotFoundError, match=r"nix\.onnx' does not exist: give a graph"):
        check_model(tmp_path / "nix.onnx")
    with pytest.raises(UsageError, match=r"stage2\.onnx is stage 2 of a cascade: give its folder"):
        check_model(tmp_path / "cascade" / "stage2.onnx")
    (tmp_path / "cascade" / "stage2.onnx").write_text("no graph")
    with pytest.raises(CorruptError, match=r"stage2\.onnx is not an ONNX graph"):
        check_model(tmp_path / "cascade")
    with pytest.raises(NotFoundError, match=r"' has no stage1\.onnx: give a graph, or a cascade's folder"):
        check_model(tmp_path)
    (tmp_path / "bad.onnx").write_text("no graph")
    with pytest.raises(CorruptError, match="is not an ONNX graph"):
        check_model(tmp_path / "bad.onnx")


def test_a_graph_of_somebody_else(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(CorruptError, match="was not exported by `ensemble export`"):
        check_model(path)
