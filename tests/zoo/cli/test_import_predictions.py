"""`zoo import-predictions`: someone else's predictions as an entry without weights."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from ensemble.evaluate import Ballots, SplitSource, entry_vote, score, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from tests.conftest import random_split
from tests.zoo.conftest import Outcome, listing, write_mosaic
from zoo.data import load_training
from zoo.entry import Entry

Command = Callable[..., Outcome]
SPLIT = random_split(50)
Floats = npt.NDArray[np.float64]


def probs(share: float, labels: npt.NDArray[np.int64] = SPLIT.labels, seed: int = 0) -> Floats:
    """Distributions that are right for this share of the rows."""
    rng = np.random.default_rng(seed)
    said = np.where(np.arange(len(labels)) < share * len(labels), labels, (labels + 1) % 10)
    found: Floats = 0.3 * rng.dirichlet(np.ones(10), len(labels)) + 0.7 * np.eye(10)[said]
    return found


@pytest.fixture
def zoo(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `zoo import-predictions` with some arguments."""
    from zoo import cli

    modules = cli.group._modules
    monkeypatch.setitem(modules, "import-predictions", ("zoo.cli.import_predictions", ""))
    return lambda *words: command("import-predictions", *words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mosaic(tmp_path / "data", {"test": SPLIT, "train-1": random_split(60, seed=1)})


@pytest.fixture
def cache(zoo_home: Path) -> Path:
    return zoo_home / "entries"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "theirs.npz", probs=probs(0.8), labels=SPLIT.labels)
    return tmp_path / "theirs.npz"


def test_an_entry(zoo: Command, file: Path, data: Path, cache: Path) -> None:
    shown = zoo(file, "--name", "theirs-seed4", "--data", data)
    assert shown == Outcome(0, f"{cache / 'theirs-seed4'}: predictions for 50 test images, 80.00 % right\n", "")
    assert set(listing(cache / "theirs-seed4")) == {"README.md", "SHA256SUMS", "config.json", "predictions.safetensors"}
    entry = Entry("theirs-seed4", cache / "theirs-seed4", "cache")
    stored = entry.predictions().splits["test"]
    assert list(stored.views) == ["none"]
    np.testing.assert_allclose(
        np.exp(stored.views["none"].astype(float)), probs(0.8)[SPLIT.order], rtol=0.01, atol=1e-6
    )
    np.testing.assert_array_equal(stored.labels, SPLIT.labels[SPLIT.order])
    card = entry.card
    assert (card.architecture, card.seed, card.trained_on, card.parameters, card.license) == (
        "external",
        4,
        None,
        0,
        None,
    )
    assert (card.dataset, card.classes, card.input_size) == ("cifar10", SPLIT.classes, (32, 32))
    assert card.metrics == {"test": {"none": 0.8}}
    assert list(card.training["imported_from"]) == ["theirs.npz"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card.training["sha256"]


def test_both_views_and_logits(zoo: Command, file: Path, data: Path, tmp_path: Path) -> None:
    logits = np.log(probs(0.6, seed=1)).astype(np.float32)
    save_file({"logits": logits, "labels": SPLIT.labels}, tmp_path / "flipped.safetensors")
    words = ("--flip", tmp_path / "flipped.safetensors", "--name", "t", "--to", tmp_path / "team", "--json")
    shown = zoo(file, "--data", data, *words)
    assert shown.code == 0
    result = json.loads(shown.out)
    stored = Entry("t", tmp_path / "team" / "t", "team").predictions().splits["test"]
    np.testing.assert_allclose(stored.views["flip"], logits[SPLIT.order], rtol=0.01, atol=0.01)
    merged = probs(0.8) + probs(0.6, seed=1)
    assert result["metrics"]["test"] == {
        "none": 0.8,
        "flip": pytest.approx(float((merged.argmax(1) == SPLIT.labels).mean()), abs=1e-5),
    }
    assert result["folder"] == str(tmp_path / "team" / "t")


def test_it_votes_as_the_file_does(zoo: Command, file: Path, data: Path, cache: Path) -> None:
    zoo(file, "--name", "theirs", "--data", data)
    source = SplitSource("cifar10", "test", data)
    (by_name,), (by_file,) = parse_members("theirs"), parse_members(str(file))
    stored = Entry("theirs", cache / "theirs", "cache").predictions().splits["test"]
    mine = score(
        Committee((by_name,)),
        Ballots([entry_vote(by_name, dict(stored.views), "none")], stored.labels),
        source,
        source="stored",
    )
    committee = Committee((by_file,))
    theirs = score(committee, stored_ballots(committee, source), source, source="stored")
    assert mine.ensemble["accuracy"] == theirs.ensemble["accuracy"] == 0.8
    assert mine.ensemble["nll"] == pytest.approx(theirs.ensemble["nll"], abs=1e-3)


def test_the_validation_split(zoo: Command, data: Path, tmp_path: Path, cache: Path) -> None:
    val = load_training("cifar10", data)[1]
    np.savez(tmp_path / "val.npz", probs=probs(1, val.labels), labels=val.labels)
    assert zoo(tmp_path / "val.npz", "--name", "t", "--split", "val", "--data", data).code == 0
    assert Entry("t", cache / "t", "cache").predictions().splits["val"].fingerprint == val.fingerprint
    refused = zoo(tmp_path / "val.npz", "--name", "u", "--split", "val")
    assert (refused.code, "do not ship" in refused.err) == (1, True)


def test_dry_run_and_warning(zoo: Command, data: Path, tmp_path: Path, zoo_home: Path) -> None:
    np.savez(tmp_path / "bad.npz", probs=np.roll(probs(0.9), 3, axis=1), labels=SPLIT.labels)
    shown = zoo(tmp_path / "bad.npz", "--name", "t", "--data", data, "--dry-run")
    assert (shown.code, shown.out) == (0, "t: would file predictions for 50 test images, 0.00 % right\n")
    assert shown.err.startswith("warning: 0.0 % is near chance: ")
    assert not zoo_home.exists()
    assert zoo(tmp_path / "bad.npz", "--name", "t", "--data", data, "-q").out == ""


def test_an_entry_that_exists(zoo: Command, file: Path, data: Path, cache: Path) -> None:
    words = (file, "--name", "t", "--data", data, "-q")
    assert zoo(*words) == Outcome(0, "", "")
    before = listing(cache)
    assert "--replace replaces it" in zoo(*words).err
    assert listing(cache) == before
    assert zoo(*words, "--replace", "--license", "cc-by-4.0").code == 0
    assert Entry("t", cache / "t", "cache").card.license == "cc-by-4.0"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"probs": probs(1)[:-1]}, "[49, 10], the split needs floats [50, 10]"),
        ({"probs": probs(1) * 2}, "do not sum to 1"),
        ({"logits": np.full((50, 10), np.nan)}, "not finite"),
        ({"logits": np.full((50, 10), 1e6)}, "are not all finite numbers of at most 65,504"),
        ({"probs": np.array([None] * 500, object).reshape(50, 10)}, "pickles are never loaded"),
        ({"other": probs(1)}, "it needs labels, and either probs or logits"),
    ],
)
def test_files_that_do_not_fit(
    zoo: Command, data: Path, tmp_path: Path, zoo_home: Path, arrays: dict[str, Floats], said: str
) -> None:
    np.savez(tmp_path / "bad.npz", labels=SPLIT.labels, **arrays)  # type: ignore[arg-type]
    shown = zoo(tmp_path / "bad.npz", "--name", "t", "--data", data)
    assert (shown.code, shown.out) == (1, "")
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert listing(zoo_home) == {}


def test_labels_of_other_images(zoo: Command, file: Path, tmp_path: Path) -> None:
    other = write_mosaic(tmp_path / "other", {"test": random_split(50, seed=9), "train-1": random_split(60, seed=1)})
    np.savez(tmp_path / "moved.npz", probs=probs(1), labels=np.roll(SPLIT.labels, 1))
    assert "50 of 50 labels differ" in zoo(tmp_path / "moved.npz", "--name", "t", "--data", other).err
    assert "[10000, 10]" in zoo(file, "--name", "t").err, "the shipped test split"


def test_other_files(zoo: Command, file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.csv").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:300])
    for name, code, said in (
        ("text.npz", 1, "no readable zip archive"),
        ("cut.npz", 1, "no readable zip archive"),
        ("text.csv", 2, "ends in .npz or .safetensors"),
        ("missing.npz", 1, "does not exist"),
    ):
        shown = zoo(tmp_path / name, "--name", "t", "--data", data)
        assert (shown.code, shown.out, said in shown.err) == (code, "", True)
    assert zoo(file, "--flip", tmp_path / "missing.npz", "--name", "t", "--data", data).code == 1
    assert "not a valid entry name" in zoo(file, "--name", "../t", "--data", data).err
    assert "look at --license" in zoo(file, "--name", "t", "--data", data, "--license", "©").err
    monkeypatch.setattr("zoo.cli.import_predictions._MOST", 10_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probs.npy", bytes(20_000_000))
    assert "claims to unpack to 20,000,000 bytes" in zoo(tmp_path / "bomb.npz", "--name", "t", "--data", data).err
