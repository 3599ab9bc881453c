"""`ensemble bench`, as a person or a program meets it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

Cli = Callable[..., "Outcome"]
NAMES = ["pair.onnx", "PyTorch eager", "PyTorch compiled", "ensemble.freeze"]
QUICK = ("--seconds", "0.01", "--device", "cpu", "-q")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_options: call)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def model(zoo: "Zoo", cli: Cli, shelf: Path, tmp_path: Path) -> Path:
    """A graph of two members; exported once."""
    del zoo
    kept = shelf / "pair.onnx"
    if not kept.exists():
        assert cli("export", "--members", "tiny-a,tiny-b", "--tta", "flip", "--no-gate", "-o", kept).code == 0
    return Path(shutil.copy(kept, tmp_path))


def test_a_graph_beside_pytorch(zoo: "Zoo", cli: Cli, model: Path, tmp_path: Path) -> None:
    to = tmp_path / "bench.json"
    done = cli("bench", model, "--batch", "1,4", "--data", zoo.data, "--threads", "1", "--json", to, *QUICK)
    assert (done.code, done.err) == (0, "")
    assert "2 members, views: flip; CPUExecutionProvider, 1 threads; cifar10 test" in done.out
    assert "times as fast" in done.out
    table = json.loads(to.read_text())
    assert [(row["batch"], row["name"]) for row in table["rows"]] == [
        (batch, name) for batch in (1, 4) for name in NAMES
    ]
    for row in table["rows"]:
        assert row["precision"] == "fp32"
        assert 0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_second"] > 0
        assert (row["ratio"] is None) == (row["name"] == "PyTorch eager")
    (about,) = table["graphs"]
    assert about["path"] == str(model)
    assert about["members"] == ["tiny-a", "tiny-b"]
    assert len(about["sha256"]) == 64
    assert (about["precision"], about["provider"], about["views"]) == ("fp32", "CPUExecutionProvider", "flip")
    assert table["agreement"] == dict.fromkeys(NAMES, 1.0)
    assert table["threads"] == 1
    assert table["hardware"]["accelerator"] is None
    assert {"torch", "onnxruntime", "python"} <= set(table["versions"])
    assert "60 images" in table["images"]


def test_the_graph_alone_as_json(zoo: "Zoo", cli: Cli, model: Path) -> None:
    done = cli("bench", model, "--batch", "2", "--no-pytorch", "--data", zoo.data, "--json", "-", *QUICK)
    assert (done.code, done.err) == (0, "")
    table = json.loads(done.out)
    assert [(row["name"], row["ratio"]) for row in table["rows"]] == [("pair.onnx", None)]


def test_graphs_beside_each_other(zoo: "Zoo", cli: Cli, model: Path) -> None:
    (model.parent / "b").mkdir()
    other = shutil.copy(model, model.parent / "b")
    words = ("--batch", "2", "--no-pytorch", "--data", zoo.data, "--json", "-", *QUICK)
    table = json.loads(cli("bench", model, other, *words).out)
    assert [row["name"] for row in table["rows"]] == [str(model), str(other)]
    assert len(table["graphs"]) == 2
    twice = cli("bench", model, model, *words)
    assert (twice.code, twice.error) == (2, f"{str(model)!r} is given twice")


def test_members_that_are_not_here(zoo: "Zoo", cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_SOURCE")
    done = cli("bench", model, "--batch", "2", "--data", zoo.data, "--json", "-", *QUICK)
    table = json.loads(done.out)
    assert [row["name"] for row in table["rows"]] == ["pair.onnx"]
    (note,) = table["notes"]
    assert note.startswith("PyTorch is left out: pair.onnx: ")
    assert "'tiny-a'" in note


def test_images_that_are_not_here(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a dataset that does not ship."""
    from ensemble.evaluate import SplitSource
    from zoo.errors import NotFoundError

    def missing(_self: object) -> Any:  # noqa: ANN401
        raise NotFoundError("no images of this dataset")

    monkeypatch.setattr(SplitSource, "split", property(missing))
    table = json.loads(cli("bench", model, "--batch", "2", "--no-pytorch", "--json", "-", *QUICK).out)
    assert table["images"] == "noise"
    assert table["notes"] == ["the images are noise, by which a cascade's exits are others (no images of this dataset)"]
    asked = cli("bench", model, "--batch", "2", "--data", "/no/where", *QUICK)
    assert (asked.code, asked.error) == (1, "no images of this dataset")


def test_what_is_slow_is_said(zoo: "Zoo", cli: Cli, model: Path) -> None:
    words = ("--batch", "1", "--seconds", "0.01", "--device", "cpu", "--data", zoo.data)
    lines = cli("bench", model, *words, "--json", "-").err.splitlines()
    assert lines == ["loading the ensemble in PyTorch", "preparing batches of 1", "measuring batches of 1"]


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (("--batch", "1,x"), "--batch '1,x': give numbers from 1, with commas between them: 1,8,64", 2),
        (("--batch", "0"), "--batch '0': give numbers from 1", 2),
        (("--batch", "1,,2"), "--batch '1,,2': give numbers from 1", 2),
        (("--batch", "61", "--no-pytorch"), "--batch 61: there are 60 images", 2),
        (("--seconds", "nan"), "--seconds nan: give a finite time above 0", 2),
        (("--seconds", "0"), "--seconds 0: give a finite time above 0", 2),
        (("--device", "tpu"), "unknown device 'tpu'; there are cpu, cuda, tensorrt", 2),
        (("--json", "pair.onnx"), "--json 'pair.onnx' would overwrite what is read: give another file", 2),
        (("--json", "no/where.json"), "--json 'no/where.json' is not a file in an existing folder", 2),
    ],
)
def test_refusals(
    zoo: "Zoo", cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str, code: int
) -> None:
    monkeypatch.chdir(model.parent)
    done = cli("bench", model.name, "--device", "cpu", "--data", zoo.data, "-q", *words)
    assert done.code == code
    assert done.error.startswith(says)


def test_a_graph_that_is_not_there(cli: Cli) -> None:
    done = cli("bench", "gone.onnx")
    assert (done.code, done.error) == (1, "'gone.onnx' is not a file: give a graph that `ensemble export` wrote")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from ensemble.cli import group; from zoo.cli.group import run; run(group, ['bench', '--help']); "
        "sys.exit(' '.join({'torch', 'onnx', 'onnxruntime', 'ray'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ensemble bench int8.onnx fp32.onnx" in done.stdout
