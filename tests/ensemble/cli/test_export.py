"""`ensemble export` and `zoo export`: what they print, what they write, and how they say no."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch

import ensemble
from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.lockfile import write_lockfile
from ensemble.module import Ensemble
from export import pipeline
from export.metadata import ENSEMBLE_KEY, PRECISIONS
from export.runtime import CascadeSession, open_session
from tests.ensemble.cli.conftest import lock
from tests.export.conftest import remember
from zoo.cli import exporting
from zoo.data.calibration import SHIPPED_IMAGES
from zoo.entry import Entry

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

Cli = Callable[..., "Outcome"]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if any work begins: what is refused is refused at once."""

    def traced(*_args: object, **_more: object) -> None:
        raise AssertionError("traced, although it is refused anyway")

    monkeypatch.setattr(pipeline, "trace", traced)


@torch.inference_mode()
def loaded(path: Path, zoo: "Zoo") -> Any:  # noqa: ANN401
    return ensemble.load(path)(torch.from_numpy(zoo.split.images)).numpy()


def test_a_lockfile_becomes_a_graph(zoo: "Zoo", cli: Cli, tmp_path: Path, place: Path) -> None:
    file = lock(tmp_path / "e.json", zoo.committee("tiny-a,tiny-b=2", "flip", "logits", 1.5))
    target = place / "m.onnx"
    target.write_text("an older graph")
    outcome = cli("export", file, "-o", target, "--member-probs", "--data", zoo.data, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    first, second = outcome.out.splitlines()
    assert first.startswith(
        "parity with PyTorch in fp32, 60 images of the test split (CPUExecutionProvider): "
        "the same class on 100.00 %, largest difference of a probability "
    )
    size = target.stat().st_size
    assert second == f"wrote {target}: fp32, opset 18, {size / 1e6:.1f} MB"
    told = [line for line in outcome.err.splitlines() if not line.startswith("parity gate: ")]
    assert told == ["tracing the ensemble", "running PyTorch and the graph over the test split"]
    assert list(place.iterdir()) == [target]
    session = open_session(target, device="cpu")
    said = session.answer(zoo.split.images)
    np.testing.assert_allclose(said.probs, loaded(file, zoo), atol=1e-5)
    assert said.member_probs is not None
    assert said.member_probs.shape == (60, 2, 10)
    props = {prop.key: prop.value for prop in onnx.load(target).metadata_props}
    assert json.loads(props[ENSEMBLE_KEY]) == json.loads(file.read_text())


def test_int8_as_json(zoo: "Zoo", cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "trace", remember({}))
    target = place / "m.onnx"
    words = ("--members", "tiny-a", "-o", target, "--precision", "int8", "--data", zoo.data, "--images", 40)
    outcome = cli("export", *words, "--json", "-q", "--no-gate")
    assert (outcome.code, outcome.err) == (0, "")
    table = json.loads(outcome.out)
    (calibration,) = table.pop("calibration")
    assert table == {
        "path": str(target),
        "files": [str(target)],
        "bytes": target.stat().st_size,
        "precision": "int8",
        "opset": 20,
        "parity": None,
    }
    assert (calibration["images"], calibration["quantized"] + len(calibration["left_out"])) == (40, 7)
    shown = cli("export", *words, "--no-gate")
    assert shown.code == 0
    line, wrote = shown.out.splitlines()
    assert line.startswith(
        f"int8: {calibration['quantized']} of 7 layers, calibrated on 40 training images (percentile "
    )
    assert line.partition(", divergence ")[2].startswith(f"{calibration['divergence']:.1e} nats")
    assert wrote.startswith(f"wrote {target}: int8, opset 20, ")
    assert shown.err.splitlines()[-1] == ("note: nothing has shown that the graph answers as PyTorch does (--no-gate)")
    assert [value.name for value in onnx.load(target).graph.output] == ["probs"]


def test_a_cascade_becomes_a_folder(zoo: "Zoo", cli: Cli, tmp_path: Path, place: Path) -> None:
    plain = zoo.committee("tiny-a,tiny-b", "flip")
    with torch.inference_mode():
        sure = Ensemble(replace(plain, members=plain.members[1:], views="none"))(torch.from_numpy(zoo.split.images))
    first = Stage(("tiny-b",), "none", 1.0, float(sure.amax(1).median()) + 1e-4)
    committee = replace(plain, cascade=(first, Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0)))
    write_lockfile(tmp_path / "cascade.json", committee, fitted_on=None, metrics={})
    outcome = cli("export", tmp_path / "cascade.json", "-o", place / "out", "--data", zoo.data, "--device", "cpu", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1].startswith(f"wrote {place / 'out'} (2 files): fp32, opset 18, ")
    session = open_session(place / "out", device="cpu")
    assert isinstance(session, CascadeSession)
    with torch.inference_mode():
        exits = Cascade(Ensemble(committee), committee).exits(torch.from_numpy(zoo.split.images))
    np.testing.assert_array_equal(session.answer(zoo.split.images).stage, exits.stage)
    assert 0 < int(exits.stage.sum()) < 60


def test_a_miss_of_the_gate(zoo: "Zoo", cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = remember({})

    def hotter(module: Any, *rest: Any) -> Any:  # noqa: ANN401
        module.committee.temperatures.mul_(1.1)
        return real(module, *rest)

    monkeypatch.setattr(pipeline, "trace", hotter)
    (place / "m.onnx").write_text("an older graph")
    words = ("export", "--members", "tiny-a", "-o", place / "m.onnx", "--data", zoo.data, "-q", "--device", "cpu")
    outcome = cli(*words)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.error.startswith("the fp32 graph does not answer as PyTorch does: a probability differs by ")
    assert outcome.error.endswith("(60 images); nothing was written (--no-gate writes it all the same)")
    assert [(file.name, file.read_text()) for file in place.iterdir()] == [("m.onnx", "an older graph")]
    outcome = cli(*words, "--no-gate")
    assert (outcome.code, outcome.err) == (0, "")
    assert open_session(place / "m.onnx", device="cpu").members == ("tiny-a",)


CASCADE = (Stage(("tiny-a",), "none", 1.0, 0.9), Stage(("tiny-a", "tiny-b"), "none", 1.0, 0.0))

REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("{e}",), 2, "give -o model.onnx, or --triton DIR for a model repository"),
    (("{e}", "-o", "{to}/m.onnx", "--triton", "{to}"), 2, "give -o model.onnx, or --triton DIR for a model repository"),
    (("{e}", "--ensemble", "{e}", "-o", "{to}/m.onnx"), 2, "give the ensemble.json once"),
    (("{e}", "--members", "tiny-a", "-o", "{to}/m.onnx"), 2, "--ensemble FILE has its own members, views and merge: "),
    (("{e}", "--tta", "flip", "-o", "{to}/m.onnx"), 2, "--ensemble FILE has its own members, views and merge: "),
    (("-o", "{to}/m.onnx"), 2, "give --members A,B=1.2 or --ensemble FILE"),
    (("{e}", "-o", "{to}/m.onnx", "--name", "x"), 2, "--name is of the model in a Triton repository: "),
    (("--members", "tiny-x", "-o", "{to}/m.onnx"), 1, "no entry 'tiny-x'"),
    (("nowhere.json", "-o", "{to}/m.onnx"), 1, "cannot read nowhere.json: No such file or directory"),
    (("--members", "{npz}", "-o", "{to}/m.onnx"), 1, "somebody's predictions cannot be a member of a lockfile"),
    (("--members", "tiny-a", "--tta", "flop", "-o", "{to}/m.onnx"), 2, "unknown view set 'flop'"),
    (("--members", "tiny-a", "--merge", "mean", "-o", "{to}/m.onnx"), 2, "unknown --merge 'mean'; there are probs, "),
    (("{e}", "-o", "{to}/m.pt"), 2, "-o '{to}/m.pt' is not the name of a file that ends in .onnx"),
    (("{e}", "-o", "{to}"), 2, "-o '{to}' is not the name of a file that ends in .onnx"),
    (("{e}", "-o", "{to}/there/m.onnx"), 2, "-o '{to}/there/m.onnx' is not in an existing folder"),
    (("{c}", "-o", "{to}/m.onnx"), 2, "-o '{to}/m.onnx': a cascade is a graph a stage, so give a folder"),
    (("{c}", "-o", "{tmp}"), 2, "-o '{tmp}' has other files than stage graphs: give a new folder"),
    (("{e}", "-o", "{to}/m.onnx", "--precision", "fp8"), 2, "--precision 'fp8'; there are fp32, fp16, int8"),
    (("{e}", "-o", "{to}/m.onnx", "--opset", "17", "--no-gate"), 2, "--opset 17: 18 to 23 are supported"),
    (("{e}", "-o", "{to}/m.onnx", "--opset", "x"), 2, "Invalid value for '--opset': 'x' is not a valid integer"),
    (("{e}", "-o", "{to}/m.onnx", "--images", "0"), 2, "Invalid value for '--images': 0 is not in the range x>=1"),
    (
        ("{e}", "-o", "{to}/m.onnx", "--precision", "int8", "--images", "600"),
        2,
        "600 calibration images: there are 512",
    ),
    (("{e}", "-o", "{to}/m.onnx", "--data", "nowhere"), 1, "data folder 'nowhere' does not exist"),
    (
        ("{e}", "-o", "{to}/m.onnx", "--data", "{data}", "--device", "gpu"),
        2,
        "unknown device 'gpu'; there are cpu, cuda, ",
    ),
    (("{e}", "-o", "{to}/m.onnx", "--device", "gpu", "--no-gate"), 2, "unknown device 'gpu'; there are cpu, cuda, "),
    (("{e}", "-o", "{to}/m.onnx", "--images", "40"), 2, "--images goes with --precision int8: nothing else is "),
    (("{e}", "-o", "{to}/m\n.onnx"), 2, "-o '{to}/m\\n.onnx' has control characters"),
    (("{c}", "-o", "."), 2, "-o '.' is the folder that this runs in, or above it: give a new folder"),
    (("{e}", "-o", ""), 2, "Invalid value for '-o' / '--output': nothing is in it"),
    (("{bad}", "-o", "{to}/m.onnx"), 1, "{bad} is not JSON: "),
    (("{other}", "-o", "{to}/m.onnx"), 1, "{other} was made with other weights of 'tiny-a'"),
]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("words", "code", "text"), REFUSED, ids=[" ".join(words) for words, _, _ in REFUSED])
def test_what_is_refused(
    zoo: "Zoo", cli: Cli, tmp_path: Path, place: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    names = {"e": "e.json", "c": "c.json", "bad": "bad.json", "other": "other.json", "npz": "theirs.npz"}
    at = {key: str(tmp_path / name) for key, name in names.items()}
    at |= {"to": str(place), "tmp": str(tmp_path), "data": str(zoo.data)}
    lock(tmp_path / "e.json", zoo.committee("tiny-a,tiny-b"))
    lock(tmp_path / "c.json", replace(zoo.committee("tiny-a,tiny-b", "none"), cascade=CASCADE))
    (tmp_path / "bad.json").write_text("{")
    digest = zoo.entry("tiny-a").weights_digest
    (tmp_path / "other.json").write_text((tmp_path / "e.json").read_text().replace(digest, "0" * 64))
    np.savez(tmp_path / "theirs.npz", probs=np.full((60, 10), 0.1), labels=zoo.split.labels)
    outcome = cli("export", *(word.format(**at) for word in words))
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.error.startswith(text.format(**at))
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("untraced")
def test_a_gpu_that_is_not_there(zoo: "Zoo", cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.runtime.providers.gpu_count", lambda: 0)
    words = ("export", "--members", "tiny-a", "-o", place / "m.onnx", "--data", zoo.data, "--device", "cuda")
    outcome = cli(*words)
    assert outcome.code == 2
    assert outcome.error.startswith("device 'cuda': ")
    assert outcome.error.endswith(
        "`ensemble doctor` says what is wrong; device cpu, or allow_cpu, runs the graph on the CPU"
    )


@pytest.mark.usefixtures("untraced")
def test_other_datasets_need_data(cli: Cli, make_entry: Callable[..., Entry], tmp_path: Path, place: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    names = tuple(f"c{n}" for n in range(100))
    make_entry(tmp_path / "more", "hundred", classes=names, dataset="cifar100")
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "more"))
    words = ("export", "--members", "hundred", "-o", place / "m.onnx")
    for more, part in (((), "test"), (("--precision", "int8", "--no-gate"), "train")):
        outcome = cli(*words, *more)
        assert outcome.code == 1
        assert outcome.error.startswith(f"the {part} images of cifar100 do not ship with this package: give --data DIR")


def zoo_cli(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    from zoo.cli import group
    from zoo.cli.group import run

    capsys.readouterr()
    code = run(group, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_network(
    zoo: "Zoo", place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    code, out, err = zoo_cli(capsys, "export", "tiny-c", "--data", zoo.data, "--device", "cpu", "-q", "--json")
    assert (code, err) == (0, "")
    table = json.loads(out)
    assert (table["path"], table["precision"], table["parity"]["passed"]) == ("tiny-c.onnx", "fp32", True)
    assert [file.name for file in place.iterdir()] == ["tiny-c.onnx"]
    session = open_session("tiny-c.onnx", device="cpu")
    assert (session.members, session.lockfile["views"]) == (("tiny-c",), "none")
    with torch.inference_mode():
        wanted = ensemble.load("tiny-c")(torch.from_numpy(zoo.split.images))
    np.testing.assert_allclose(session.run(zoo.split.images), wanted, atol=1e-5)


@pytest.mark.usefixtures("zoo", "untraced")
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("tiny-x",), 1, "no entry 'tiny-x'"),
        (("tiny-a", "--tta", "flop"), 2, "unknown view set 'flop'"),
        (("tiny-a", "--device", "gpu", "--no-gate"), 2, "unknown device 'gpu'; there are cpu, cuda, tensorrt"),
        (("tiny-a", "--images", "40"), 2, "--images goes with --precision int8: nothing else is calibrated"),
        (("tiny-a", "--precision", "fp4"), 2, "--precision 'fp4'; there are fp32, fp16, int8"),
        ((), 2, "Missing argument 'NAME'"),
    ],
)
def test_what_zoo_export_refuses(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, text: str
) -> None:
    found, out, err = zoo_cli(capsys, "export", *words)
    assert (found, out) == (code, "")
    assert err.startswith(f"error: {text}")
    assert err.count("\n") == 1


def test_constants_that_the_command_line_has_of_its_own() -> None:
    assert (exporting._PRECISIONS, exporting._IMAGES) == (PRECISIONS, SHIPPED_IMAGES)


@pytest.mark.parametrize("package", ["ensemble", "zoo"])
@pytest.mark.parametrize("words", [("--help",), ("export", "--help")])
def test_help_is_light(package: str, words: tuple[str, ...]) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "onnxscript", "ray", "scipy"}
    code = (
        f"import sys; from {package}.cli import group; from zoo.cli.group import run; "
        f"code = run(group, {list(words)!r}); sys.exit(code or ' '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "export" in done.stdout


def test_importing_the_package_is_light() -> None:
    heavy = {"torch", "onnx", "onnxruntime"}
    code = f"import sys, export, export.runtime; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
