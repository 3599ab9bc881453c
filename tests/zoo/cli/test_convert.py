"""`zoo convert`: a new entry in another form, whose predictions are always those of its weights."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import random_split
from tests.zoo.conftest import Outcome, in_part, listing, write_mosaic
from tta.stored import predict_split
from zoo import store
from zoo.data import load_training
from zoo.entry import Entry, write_entry
from zoo.predictions import Predictions
from zoo.scores import accuracies

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]
TEST = random_split(40, seed=7)


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with data that is taken for CIFAR-10."""
    return write_mosaic(tmp_path / "data", {"train-1": random_split(100, seed=8), "test": TEST})


@pytest.fixture
def entry(tmp_path: Path, images: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Return an entry with predictions on both splits."""
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    splits = {"val": load_training("cifar10", images)[1], "test": TEST}
    return make_entry(tmp_path / "shelf", "tiny", splits=splits)


def converted(name: str) -> Entry:
    entry = store.find(name)
    entry.verify()
    return entry


def test_a_lossless_change_keeps_the_predictions(command: Command, entry: Entry) -> None:
    shown = command("convert", "tiny", "--to-name", "tiny-fp32", "--dtype", "fp32")
    new = converted("tiny-fp32")
    said = "fp16 -> fp32, 0.0 MB in 1 file; values as they were; predictions: kept"
    assert shown == Outcome(0, f"{new.folder}: {said}\n", "")
    assert new.read("predictions.safetensors") == entry.read("predictions.safetensors")
    assert new.card.metrics == entry.card.metrics
    assert {value.dtype for value in new.tensors().values()} == {torch.float32, torch.int64}
    state = entry.load().state_dict()
    assert all(torch.equal(value, state[name]) for name, value in new.load().state_dict().items())
    assert new.card.training["converted_from"] == f"tiny@{entry.weights_digest[:16]}"


def test_shards_and_back(command: Command, entry: Entry, tmp_path: Path) -> None:
    assert command("convert", "tiny", "--to-name", "tiny-cut", "--shard-size", "0.006").code == 0
    cut = converted("tiny-cut")
    assert len(cut.weights) > 1
    assert all((cut.folder / file).stat().st_size < 6000 for file in cut.weights)
    assert cut.weights_digest == entry.weights_digest
    assert command("convert", "tiny-cut", "--to-name", "whole", "--single-file", "--to", tmp_path / "team").code == 0
    whole = tmp_path / "team" / "whole" / "model.safetensors"
    assert hashlib.sha256(whole.read_bytes()).hexdigest() == entry.weights_digest
    assert command("convert", "tiny-cut", "--to-name", "cut-fp32", "--dtype", "fp32", "-q") == Outcome(0, "", "")
    assert converted("cut-fp32").weights == ("model-00001-of-00001.safetensors",), "cut as before, below 48 MB"


@pytest.mark.usefixtures("every_line")
def test_rounded_values_are_predicted_anew(command: Command, entry: Entry, images: Path) -> None:
    flags = ("--dtype", "bf16", "--data", images, "--device", "cpu")
    shown = command("convert", "tiny", "--to-name", "tiny-bf16", *flags)
    assert shown.code == 0
    assert shown.out.endswith(
        "fp16 -> bf16, 0.0 MB in 1 file; values rounded; predictions: computed from the new weights\n"
    )
    assert "50/50 images" in shown.err
    new = converted("tiny-bf16")
    card, stored, before = new.card, new.predictions().splits, entry.predictions().splits
    assert list(stored) == list(before)
    splits = {"val": load_training("cifar10", images)[1], "test": TEST}
    for name, split in splits.items():
        wanted = predict_split(new.load(), split, (card.mean, card.std), torch.device("cpu"))
        for view, logits in stored[name].views.items():
            np.testing.assert_allclose(logits, wanted.views[view], atol=2e-3)
            assert not np.array_equal(logits, before[name].views[view])
        assert stored[name].fingerprint == split.fingerprint
    assert card.metrics == {name: accuracies(found) for name, found in stored.items()}
    assert command("verify", "tiny-bf16", "--predictions", "--data", images, "--device", "cpu").code == 0


def test_without_predictions(command: Command, entry: Entry, tmp_path: Path) -> None:
    metrics = {"test": {"none": 0.25, "flip": 0.5}}
    card = dataclasses.replace(entry.card, name="stated", metrics=metrics)
    write_entry(tmp_path / "shelf" / "stated", card, entry.read("model.safetensors"), entry.predictions())
    for name, dtype, wanted in (("rounded", "bf16", {}), ("same", "fp32", metrics)):
        shown = command("convert", "stated", "--to-name", name, "--dtype", dtype, "--no-predictions")
        assert shown.out.endswith("; predictions: none\n")
        assert "predictions.safetensors" not in converted(name).sums
        assert converted(name).card.metrics == wanted, "what was measured, of these weights"


def test_the_training_curve_is_kept(command: Command, entry: Entry, tmp_path: Path) -> None:
    curve = b"epoch,train_loss\n1,2.5\n"
    card = dataclasses.replace(entry.card, name="curve")
    extra = {"metrics.csv": curve}
    write_entry(tmp_path / "shelf" / "curve", card, entry.read("model.safetensors"), None, extra=extra)
    assert command("convert", "curve", "--to-name", "new", "--dtype", "bf16").code == 0
    assert converted("new").read("metrics.csv") == curve


def test_dry_run(command: Command, entry: Entry, zoo_home: Path) -> None:
    shown = command("convert", "tiny", "--to-name", "new", "--dtype", "bf16", "--dry-run")
    assert shown.out.startswith(
        f"would file {zoo_home / 'entries' / 'new'}: fp16 -> bf16, 0.0 MB in 1 file; values rounded"
    )
    assert not (zoo_home / "entries").exists()
    assert entry.name == "tiny"


def test_json(command: Command, entry: Entry, zoo_home: Path) -> None:
    words = ("convert", "tiny", "--to-name", "new", "--dtype", "fp32", "--json")
    would, done = command(*words, "--dry-run"), command(*words, "-q")
    assert (would.code, would.err, done.code, done.err) == (0, "", 0, "")
    new = converted("new")
    about = {
        "name": "new",
        "folder": str(zoo_home / "entries" / "new"),
        "dtype": "fp32",
        "bytes": (new.folder / "model.safetensors").stat().st_size,
        "lossless": True,
        "predictions": "kept",
    }
    assert json.loads(would.out) == about | {"state": "would file"}
    assert json.loads(done.out) == about | {"state": "filed"}
    assert entry.card.metrics == new.card.metrics
    anew = command("convert", "tiny", "--to-name", "new", "--dtype", "bf16", "--json", "--dry-run", "--replace")
    assert [json.loads(anew.out)[key] for key in ("lossless", "predictions")] == [False, "computed"]


def test_replacing_one_s_own(command: Command, entry: Entry) -> None:
    assert command("convert", "tiny", "--to-name", "new", "--dtype", "fp32").code == 0
    shown = command("convert", "tiny", "--to-name", "new", "--shard-size", "1")
    assert (shown.code, shown.out) == (2, "")
    assert "'new' exists already" in shown.err
    assert command("convert", "new", "--to-name", "new", "--shard-size", "1", "--replace").code == 0
    new = converted("new")
    assert new.weights == ("model-00001-of-00001.safetensors",)
    state = entry.load().state_dict()
    assert all(torch.equal(value, state[name]) for name, value in new.load().state_dict().items())


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 2, "nothing to convert: give --dtype, --shard-size or --single-file"),
        (["--shard-size", "1", "--single-file"], 2, "--shard-size and --single-file contradict each other"),
        (["--shard-size", "0.0006"], 2, "shards of 0.0006 MB are too small for the tensor"),
        (["--shard-size", "0"], 2, "--shard-size 0 is no size in MB"),
        (["--shard-size", "nan"], 2, "--shard-size nan is no size"),
        (["--shard-size", "inf"], 2, "--shard-size inf is no size"),
        (["--shard-size", "big"], 2, "'big'"),
        (["--dtype", "int8"], 2, "'int8'"),
        (["--dtype", "bf16"], 1, "'tiny' has predictions for other test images (fingerprint "),
        (["--dtype", "bf16", "--device", "gpu", "--data", "{data}"], 2, "--device 'gpu' cannot be used"),
        (["--dtype", "bf16", "--data", "{other}"], 1, "'tiny' has predictions for other val images (fingerprint "),
    ],
)
@pytest.mark.usefixtures("entry")
def test_errors_are_one_line_and_leave_nothing(
    command: Command, tmp_path: Path, images: Path, zoo_home: Path, words: list[str], code: int, line: str
) -> None:
    other = write_mosaic(tmp_path / "other", {"train-1": random_split(100, seed=9), "test": TEST})
    given = [word.format(data=images, other=other) for word in words]
    shown = command("convert", "tiny", "--to-name", "new", *given)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1
    assert listing(zoo_home) == {}


@pytest.mark.parametrize(
    ("name", "new", "code", "line"),
    [
        ("tny", "new", 1, "did you mean 'tiny'"),
        ("tiny", "../new", 2, "not a valid entry name"),
        ("tiny", "New", 2, "not a valid entry name"),
    ],
)
@pytest.mark.usefixtures("entry")
def test_names(command: Command, name: str, new: str, code: int, line: str) -> None:
    shown = command("convert", name, "--to-name", new, "--dtype", "fp32")
    assert (shown.code, shown.out) == (code, "")
    assert line in shown.err


def test_what_cannot_be_converted(command: Command, entry: Entry, zoo_home: Path) -> None:
    path = entry.folder / "model.safetensors"
    good = path.read_bytes()
    (in_part(entry, zoo_home).folder / "model.safetensors").unlink()
    shown = command("convert", "tiny", "--to-name", "new", "--dtype", "fp32")
    assert shown == Outcome(1, "", "error: the weights of 'tiny' are not here, only its predictions: `zoo pull tiny`\n")
    assert command("rm", "tiny").code == 0
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "is damaged" in command("convert", "tiny", "--to-name", "new", "--dtype", "fp32").err


def test_data_that_is_not_there(command: Command, tmp_path: Path, entry: Entry) -> None:
    card = dataclasses.replace(entry.card, name="val-only")
    stored = Predictions({"val": entry.predictions().splits["val"]})
    write_entry(tmp_path / "shelf" / "val-only", card, entry.read("model.safetensors"), stored)
    shown = command("convert", "val-only", "--to-name", "new", "--dtype", "bf16")
    assert shown.code == 1
    assert shown.err == (
        "error: the values are rounded, so the predictions have to be computed again, but the train images of cifar10 "
        "do not ship with this package: give --data DIR, or set ZOO_DATA; or leave them out: --no-predictions\n"
    )
