"""Graphs as files: one, or two where the weights are many, that can be moved together."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.graph.save import EXTERNAL_FROM, drop_output, save, stamp
from export.runtime import Session
from tests.conftest import files_up_to
from zoo.data import Split
from zoo.errors import StorageError


def test_two_files_that_can_be_moved_together(seen: Split, plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    props = {prop.key: prop.value for prop in model.metadata_props}
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    (tmp_path / "here").mkdir()
    files = save(model, tmp_path / "here" / "m.onnx", external_from=1000)
    stamp(model, files[0], props)
    digest = hashlib.sha256(files[1].read_bytes()).hexdigest()
    assert [file.name for file in files] == ["m.onnx", f"m.onnx.{digest[:16]}.data"]
    assert sorted((tmp_path / "here").iterdir()) == files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
    assert files[1].stat().st_size > weights / 2
    assert files[0].stat().st_size + files[1].stat().st_size < plain.stat().st_size + 20_000
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "m.onnx"
    onnx.checker.check_model(str(moved), full_check=True)
    wanted = Session(plain, device="cpu").answer(seen.images)
    found = Session(moved, device="cpu").answer(seen.images)
    np.testing.assert_array_equal(found.probs, wanted.probs)
    np.testing.assert_array_equal(found.member_probs, wanted.member_probs)


def test_the_data_of_an_older_graph_is_replaced(plain: Path, tmp_path: Path) -> None:
    first, second = (
        [(file, file.stat().st_size) for file in save(onnx.load(plain), tmp_path / "m.onnx", external_from=1000)]
        for _ in range(2)
    )
    assert first == second, "and not appended to"
    assert sorted(tmp_path.iterdir()) == [file for file, _ in first]


def test_weights_that_are_all_small_stay_in_the_graph(tmp_path: Path) -> None:
    bias = onnx.numpy_helper.from_array(np.ones(3, np.float32), "bias")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [bias]))
    assert save(model, tmp_path / "m.onnx", external_from=1) == [tmp_path / "m.onnx"] == list(tmp_path.iterdir())
    assert onnx.load(tmp_path / "m.onnx").graph.initializer[0] == bias


def test_a_file_in_the_current_folder_is_nothing_to_it(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx.data").write_text("somebody's")
    _, data = save(onnx.load(plain), tmp_path / "there" / "m.onnx", external_from=1000)
    (tmp_path / data.name).write_text("somebody's")
    assert save(onnx.load(plain), tmp_path / "there" / "m.onnx", external_from=1000)[1] == data


@pytest.mark.parametrize(("external_from", "files"), [(EXTERNAL_FROM, 1), (10_000, 2)])
def test_the_limit(plain: Path, tmp_path: Path, external_from: int, files: int) -> None:
    assert len(save(onnx.load(plain), tmp_path / "m.onnx", external_from=external_from)) == files
    assert EXTERNAL_FROM < 2**31, "where protobuf ends"


def test_stamps_replace_one_another(plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    save(model, tmp_path / "m.onnx")
    for props in ({"a": "1", "b": "2"}, {"c": "3"}):
        stamp(model, tmp_path / "m.onnx", props)
        read = onnx.load(tmp_path / "m.onnx")
        assert {prop.key: prop.value for prop in read.metadata_props} == props
        assert read.graph == model.graph


def test_a_disk_that_refuses(plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    for limit in (2000, 1_000_000):
        with (
            files_up_to(5000),
            pytest.raises(StorageError, match=r"^cannot write .*m\.onnx: File too large$"),
        ):
            save(model, tmp_path / "m.onnx", external_from=limit)
        assert {file.name for file in tmp_path.iterdir()} <= {"m.onnx"}
    with files_up_to(5000), pytest.raises(StorageError, match=r"^cannot write .*m\.onnx: File too large$"):
        stamp(model, tmp_path / "m.onnx", {"a": "1" * 9000})


def test_an_output_goes_with_what_only_it_needs(seen: Split, plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    nodes, weights = len(model.graph.node), len(model.graph.initializer)
    drop_output(model, "member_probs")
    assert [value.name for value in model.graph.output] == ["probs"]
    assert len(model.graph.node) == nodes - 1, "the transposition of the members' own"
    assert len(model.graph.initializer) == weights
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "m.onnx")
    wanted = Session(plain, device="cpu").run(seen.images)
    np.testing.assert_array_equal(Session(tmp_path / "m.onnx", device="cpu").run(seen.images), wanted)
    drop_output(model, "probs")
    assert (len(model.graph.node), len(model.graph.initializer)) == (0, 0)
