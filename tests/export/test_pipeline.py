"""Exports as a whole: what is written, in which files, and equal bytes for equal inputs."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch

from ensemble.lockfile import Committee, lockfile_table
from export import pipeline
from export.metadata import ENSEMBLE_KEY, EXPORT_KEY
from export.parity import Limits
from export.pipeline import OPSETS, Exported, GateError, check_target, export
from export.runtime import CascadeSession, Session
from tests.ensemble.conftest import pictures
from tests.export.conftest import EXACT, metadata, order_of, table_of
from zoo.data import Split
from zoo.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("traced_once")
def test_what_is_written_and_stored(workshop: "Workshop", seen: Split, place: Path) -> None:
    committee = workshop.committee()
    told: list[str] = []
    done: list[int] = []
    made = export(
        order_of(committee, seen, member_probs=True, tell=told.append, progress=done.append), place / "m.onnx"
    )
    assert list(place.iterdir()) == [place / "m.onnx"] == [made.path]
    assert made == Exported(made.path, (made.path,), made.path.stat().st_size, 18, made.parity, ())
    assert made.parity is not None
    assert (made.parity.agreement, made.parity.images, made.parity.provider) == (1, 60, "CPUExecutionProvider")
    assert 0 < made.parity.difference < EXACT
    assert sum(done) == 2 * len(seen)
    assert told == ["tracing the ensemble", "running PyTorch and the graph over the test split"]
    said = metadata(made.path)
    assert said[ENSEMBLE_KEY] == table_of(committee)
    about = said[EXPORT_KEY]
    assert {key: about[key] for key in ("format", "precision", "opset", "stage", "calibration")} == {
        "format": "menagerie.export/1",
        "precision": "fp32",
        "opset": 18,
        "stage": None,
        "calibration": None,
    }
    assert about["parity"] == made.parity.to_dict()
    assert about["parity"]["fingerprint"] == seen.fingerprint
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (made.path.stat().st_mode & 0o777) == 0o644


SCRIPT = """
import sys
from pathlib import Path
from tests.export.conftest import Workshop
from tests.export.test_pipeline import deterministic
deterministic(Workshop(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def deterministic(workshop: "Workshop", folder: Path) -> None:
    """Write an fp32 and an int8 graph, with their gates."""
    committee, split = workshop.committee("d", "none"), pictures(60, seed=1)
    export(order_of(committee, split), folder / "fp32.onnx")
    order = order_of(committee, split, precision="int8", calibration=pictures(32, seed=3))
    export(replace(order, gate=replace(order.gate, limits=Limits())), folder / "int8.onnx")  # type: ignore[type-var]


def test_the_same_input_gives_the_same_bytes(workshop: "Workshop", place: Path) -> None:
    (place / "a").mkdir()
    (place / "b").mkdir()
    words = [sys.executable, "-c", SCRIPT, str(workshop.folder), str(place / "b")]
    workshop.committee("d")
    with subprocess.Popen(words, cwd=ROOT, env=_environment(place)) as other:
        deterministic(workshop, place / "a")
        assert other.wait() == 0
    for name in ("fp32.onnx", "int8.onnx"):
        content = (place / "a" / name).read_bytes()
        assert content == (place / "b" / name).read_bytes()
        for path in (workshop.folder, place, ROOT, Path(sys.prefix), Path.home()):
            assert str(path).encode() + b"/" not in content
        for trace in (b"stack_trace", b".py", b"pkg.torch", b"/usr/"):
            assert trace not in content


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "12345", "ZOO_HOME": str(home / "other-home"), "PYTHONPATH": str(ROOT)}


@pytest.mark.usefixtures("traced_once")
def test_a_cascade_is_a_folder_of_stage_graphs(workshop: "Workshop", seen: Split, place: Path) -> None:
    committee, target = workshop.cascade(), place / "cascade"
    made = export(order_of(committee, seen), target)
    names = ["stage1.onnx", "stage2.onnx", "stage3.onnx"]
    assert sorted(file.name for file in target.iterdir()) == names
    assert made.files == tuple(target / name for name in names)
    assert made.parity is not None
    assert made.parity.moved == 0
    for number, name in enumerate(names, 1):
        said = metadata(target / name)
        assert said[ENSEMBLE_KEY] == table_of(committee)
        assert (said[EXPORT_KEY]["stage"], said[EXPORT_KEY]["parity"]) == (number, made.parity.to_dict())
    assert lockfile_table(committee) == table_of(committee), "as JSON has it"
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    table = table_of(committee)
    table["cascade"][0]["threshold"] = 1e-9
    with pytest.raises(GateError, match="images leave the cascade at another stage"):
        export(replace(order_of(committee, seen), lockfile=table), target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert list(place.iterdir()) == [target]


def test_what_is_refused_before_any_work(one: Committee, seen: Split, place: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "fp8"}, "unknown precision 'fp8'; there are fp32, fp16, int8"),
        ({"opset": 17}, "--opset 17: 18 to 23 are supported"),
        ({"opset": 24}, "--opset 24: 18 to 23 are supported"),
        ({"precision": "int8"}, "int8 needs training images to calibrate on"),
    ]
    for more, text in cases:
        with pytest.raises(UsageError) as no:
            export(order_of(one, seen, **more), place / "m.onnx")
        assert str(no.value) == text
    assert OPSETS == {"fp32": 18, "fp16": 18, "int8": 20}
    assert list(place.iterdir()) == []


def test_where_a_graph_can_be_written(place: Path) -> None:
    (place / "folder.onnx").mkdir()
    (place / "notes").mkdir()
    (place / "notes" / "stage1.onnx").touch()
    (place / "notes" / "stage1.onnx.data").touch()
    (place / "notes" / "stage1.onnx.0123456789abcdef.data").touch()
    check_target(place / "m.onnx", cascade=False)
    check_target(Path("m.onnx"), cascade=False)
    check_target(place / "notes", cascade=True)
    check_target(place / "new", cascade=True)
    (place / "notes" / "todo.txt").touch()
    (place / "file").touch()
    refused = [
        ("m.pt", False, "is not the name of a file that ends in .onnx"),
        ("folder.onnx", False, "is not the name of a file that ends in .onnx"),
        ("there/m.onnx", False, "is not in an existing folder"),
        ("m.onnx", True, "a cascade is a graph a stage, so give a folder"),
        ("file", True, "a cascade is a graph a stage, so give a folder"),
        ("notes", True, "has other files than stage graphs: give a new folder"),
        ("there/new", True, "is not in an existing folder"),
        ("a\nb.onnx", False, "has control characters"),
        ("a\x1b[31mb.onnx", False, "has control characters"),
        ("a\u2028b", True, "has control characters"),
    ]
    for name, cascade, text in refused:
        with pytest.raises(UsageError, match=re.escape(text)) as no:
            check_target(place / name, cascade=cascade)
        assert str(no.value).startswith(f"-o {str(place / name)!r}")
    check_target(place / "\u65b0\u898f\u3000\xe9.onnx", cascade=False)


def test_folders_that_cannot_be_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = place / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (place / "link").symlink_to(inside)
    for name in (".", "..", str(inside), str(place / "a"), "../b", str(place / "link")):
        text = re.escape(f"-o {name!r} is the folder that this runs in, or above it: give a new folder")
        with pytest.raises(UsageError, match=text):
            check_target(Path(name), cascade=True)
    check_target(Path("new"), cascade=True)
    check_target(Path("../c"), cascade=True)
    monkeypatch.setattr(Path, "is_mount", lambda self: self == place / "volume")
    (place / "volume").mkdir()
    with pytest.raises(UsageError, match=r"is a mount point, which nothing can replace: give a new folder$"):
        check_target(place / "volume", cascade=True)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_a_link(workshop: "Workshop", one: Committee, place: Path, *, there: bool) -> None:
    (place / "far").mkdir()
    (place / "link.onnx").symlink_to(Path("far") / "m.onnx")
    (place / "link").symlink_to(Path("far") / "cascade")
    if there:
        (place / "far" / "m.onnx").write_text("an older graph")
        (place / "far" / "cascade").mkdir()
    made = export(order_of(one, external_from=1000), place / "link.onnx")
    folder = export(order_of(workshop.cascade()), place / "link")
    assert (made.path, folder.path) == (place / "far" / "m.onnx", place / "far" / "cascade")
    assert (place / "link.onnx").is_symlink()
    assert (place / "link").is_symlink()
    assert {file for file in place.rglob("*") if not file.is_dir() and not file.is_symlink()} == {
        *made.files,
        *folder.files,
    }
    assert Session(made.path, device="cpu").members == ("tiny-d",)
    assert CascadeSession(place / "link", device="cpu").path == place / "link"


def test_links_that_lead_nowhere(one: Committee, place: Path) -> None:
    (place / "m.onnx").symlink_to(place / "not" / "there.onnx")
    with pytest.raises(UsageError, match=r"m\.onnx' is not in an existing folder$"):
        export(order_of(one), place / "m.onnx")
    (place / "n.onnx").symlink_to("n.onnx")
    with pytest.raises(UsageError, match=r"n\.onnx' is a link that leads nowhere$"):
        export(order_of(one), place / "n.onnx")


@pytest.mark.usefixtures("traced_once")
def test_a_graph_that_onnx_does_not_accept(one: Committee, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.node[3].input[0] = "nothing"

    monkeypatch.setattr(pipeline, "fusible_gelu", spoil)
    with pytest.raises(DataError, match=r"^the exported graph is not sound: ") as no:
        export(order_of(one), place / "m.onnx")
    assert "\n" not in str(no.value)
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("traced_once")
def test_a_folder_that_takes_no_files(one: Committee, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"^cannot write .*m\.onnx: No space left on device$"):
        export(order_of(one), place / "m.onnx")
    assert list(place.iterdir()) == []
