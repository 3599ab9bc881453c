"""Rows of a list: whole entries, those with predictions only, damaged ones."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.conftest import file_entry, flip_bit, in_part, refresh_sums
from zoo.entry import Entry
from zoo.errors import CorruptError
from zoo.listing import Listed, Row, listed, row
from zoo.predictions import Predictions, SplitPredictions

LOGITS = {view: np.zeros((3, 10), np.float16) for view in ("none", "flip")}
STORED = Predictions({"test": SplitPredictions(LOGITS, np.arange(3), "ab" * 32)})


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return file_entry(
        tmp_path,
        "fastnet-seed1",
        predictions=STORED,
        metrics={"test": {"flip": 0.9373, "none": 0.9}},
        parameters=1_972_792,
        multiply_adds=118_147_360,
    )


def again(entry: Entry) -> Entry:
    return Entry(entry.name, entry.folder, "cache")


def bytes_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir() if p.name != "SHA256SUMS")


def test_what_is_listed(entry: Entry) -> None:
    assert listed(entry) == Listed(
        name="fastnet-seed1",
        architecture="fastnet",
        dataset="cifar10",
        accuracy=0.9373,
        parameters=1_972_792,
        multiply_adds=118_147_360,
        bytes=bytes_of(entry.folder),
    )


def test_a_card_without_figures(tmp_path: Path) -> None:
    assert listed(file_entry(tmp_path, "bare")).accuracy is None


def test_a_whole_entry(entry: Entry) -> None:
    found = row(again(entry))
    assert found == Row("fastnet-seed1", "cache", str(entry.folder), "whole", listed(entry))
    assert found.table() == {
        **asdict(listed(entry)),
        "source": "cache",
        "folder": str(entry.folder),
        "state": "whole",
    }


def test_an_entry_with_predictions_only(entry: Entry, zoo_home: Path) -> None:
    entry = in_part(entry, zoo_home)
    (entry.folder / "model.safetensors").unlink()
    found = row(again(entry))
    assert found.state == "predictions only"
    assert found.listed is not None
    assert (found.listed.accuracy, found.listed.bytes) == (0.9373, bytes_of(entry.folder))
    assert found.table()["state"] == "predictions only"


def without(*files: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return act


def bare(folder: Path) -> None:
    """Leave neither weights nor predictions, though the sums list the weights."""
    (folder / "predictions.safetensors").unlink()
    refresh_sums(folder)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: flip_bit(folder / "config.json", 3), "config.json is damaged"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff"), "SHA256SUMS"),
        (without("predictions.safetensors"), "predictions.safetensors is missing"),
        (without("README.md"), "README.md is missing"),
        (without("README.md", "model.safetensors"), "README.md is missing"),
        (without("config.json"), "config.json"),
        (bare, "model.safetensors is missing"),
    ],
)
def test_a_damaged_entry(entry: Entry, damage: Callable[[Path], None], problem: str) -> None:
    damage(entry.folder)
    found = row(again(entry))
    assert (found.state, found.listed) == ("damaged", None)
    assert problem in found.problem
    assert found.table() == {
        "name": "fastnet-seed1",
        "source": "cache",
        "folder": str(entry.folder),
        "damaged": found.problem,
    }


def test_the_card_of_another(entry: Entry) -> None:
    moved = entry.folder.rename(entry.folder.parent / "other")
    with pytest.raises(CorruptError, match="is the card of 'fastnet-seed1', not of 'other'"):
        listed(Entry("other", moved, "cache"))
