"""`ensemble export --triton`, as a person meets it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import ensemble.cli.export as module
from ensemble.cascade.stages import Stage
from ensemble.lockfile import write_lockfile
from export.parity import LIMITS, Limits
from export.runtime import open_session

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

Cli = Callable[..., "Outcome"]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph be a file of no bytes: what is tested is what lies around it."""
    monkeypatch.setattr(module, "run_export", lambda _committee, _table, path, **_options: path.touch())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_model_and_a_version_that_misses_the_gate(
    zoo: "Zoo", cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, lockfile = tmp_path / "repository", tmp_path / "pair.json"
    write_lockfile(lockfile, zoo.committee(), fitted_on=None, metrics={})
    words = ("--member-probs", "--data", zoo.data, "--triton", repository)
    first = cli("export", lockfile, *words)
    assert first.code == 0, first.err
    assert f"wrote {repository / 'pair' / '1' / 'model.onnx'}: fp32" in first.out
    assert f"version 1 of 'pair': tritonserver --model-repository {repository}" in first.out
    assert files(repository) == {"pair/config.pbtxt", "pair/labels.txt", "pair/1/model.onnx"}

    graph = repository / "pair" / "1" / "model.onnx"
    session = open_session(graph, device="cpu")
    config = text_format.Parse((repository / "pair" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.input[0].name) == ("pair", "images")
    images = np.zeros((3, *config.input[0].dims), np.uint8)
    answer = session.answer(images)
    assert answer.member_probs is not None
    assert [output.name for output in config.output] == ["probs", "member_probs"]
    assert [list(output.dims) for output in config.output] == [
        list(answer.probs.shape[1:]),
        list(answer.member_probs.shape[1:]),
    ]
    assert tuple((repository / "pair" / "labels.txt").read_text().splitlines()) == session.classes

    monkeypatch.setitem(LIMITS, "fp32", Limits(agreement=1.1))
    missed = cli("export", lockfile, *words, "-q")
    assert missed.code == 1
    assert "the fp32 graph does not answer as PyTorch does" in missed.error
    assert {path.name for path in (repository / "pair").iterdir()} == {"config.pbtxt", "labels.txt", "1"}


@pytest.mark.usefixtures("zoo")
def test_json_names_the_graph_in_its_place(cli: Cli, tmp_path: Path) -> None:
    done = cli("export", "--members", "tiny-a", "--no-gate", "-q", "--json", "--triton", tmp_path)
    assert (done.code, done.err) == (0, "")
    graph = tmp_path / "tiny-a" / "1" / "model.onnx"
    assert json.loads(done.out)["files"] == [str(graph)]
    assert graph.is_file()


@pytest.mark.usefixtures("zoo", "untraced")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--members", "tiny-a"), "tiny-a"),
        (("--members", "tiny-*"), "ensemble"),
        (("--members", "tiny-*", "--name", "three"), "three"),
    ],
)
def test_what_the_model_is_called(cli: Cli, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    assert cli("export", *words, "--triton", tmp_path).code == 0
    assert [folder.name for folder in tmp_path.iterdir() if (folder / "config.pbtxt").exists()] == [name]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Ens.json", "ens"),
        ("five-v1.2_.json", "five-v1.2_"),
        ("Meine Größe (2).json", "meine-gr-e-2"),
        ("_Big.json", "big"),
        ("ÄÖ.json", "ensemble"),
        ("A" * 90 + ".json", "a" * 64),
        ("a" * 90 + ".json", "a" * 90),
    ],
)
def test_a_name_is_made_of_the_files(zoo: "Zoo", cli: Cli, tmp_path: Path, file: str, name: str) -> None:
    write_lockfile(tmp_path / file, zoo.committee(), fitted_on=None, metrics={})
    done = cli("export", tmp_path / file, "--triton", tmp_path / "repository")
    assert done.code == 0, done.err
    assert f"version 1 of '{name}'" in done.out
    assert [folder.name for folder in (tmp_path / "repository").iterdir()] == [name]


@pytest.mark.usefixtures("zoo", "untraced")
def test_options_reach_the_configuration(cli: Cli, tmp_path: Path) -> None:
    words = ("--members", "tiny-a", "--precision", "fp16", "--device", "tensorrt", "--triton", tmp_path)
    assert cli("export", *words).code == 0
    text = (tmp_path / "tiny-a" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    tensorrt, _ = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (tensorrt.name, tensorrt.parameters["precision_mode"]) == ("tensorrt", "FP16")
    second = cli("export", *words)
    assert second.err == f"note: {tmp_path / 'tiny-a' / 'config.pbtxt'} stays as it was\n"
    assert cli("export", *words, "-q").err == ""
    refused = cli("export", *words, "--member-probs")
    assert refused.code == 2
    assert "output probs TYPE_FP32 [10] instead of member_probs TYPE_FP32 [1, 10]; probs" in refused.error
    assert {path.name for path in (tmp_path / "tiny-a").iterdir() if path.is_dir()} == {"1", "2", "3"}


def test_a_cascade_is_refused(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    whole = zoo.committee()
    stages = (Stage(("tiny-a",), "flip", 1.0, 0.5), Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0))
    path = tmp_path / "cascade.json"
    write_lockfile(path, replace(whole, cascade=stages), fitted_on=None, metrics={})
    done = cli("export", path, "--triton", tmp_path / "repository")
    assert done.code == 2
    assert done.error.startswith("--triton takes one graph, and a cascade is one a stage: export the ensemble.json")
    assert not (tmp_path / "repository").exists()


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give -o model.onnx, or --triton DIR for a model repository"),
        (("-o", "a.onnx", "--triton", "r"), "give -o model.onnx, or --triton DIR"),
        (("-o", "a.onnx", "--name", "b"), "--name is of the model in a Triton repository: give --triton DIR, too"),
        (("--triton", "r", "--name", "Big One"), "--name 'Big One': names match [a-z0-9][a-z0-9._-]*"),
        (("--triton", "r", "--device", "gpu"), "unknown device 'gpu'; there are cpu, cuda, tensorrt"),
        (("--triton", "r", "--precision", "fp8"), "--precision 'fp8'; there are fp32, fp16, int8"),
    ],
)
def test_refusals(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    there = set(tmp_path.iterdir())
    done = cli("export", "--members", "tiny-a", *words)
    assert done.code == 2
    assert done.error.startswith(says)
    assert set(tmp_path.iterdir()) == there, "nothing is left behind"
