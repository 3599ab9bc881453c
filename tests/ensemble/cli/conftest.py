"""What is shared by the tests of commands that fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.lockfile import Committee, write_lockfile
from zoo.predictions import Predictions, SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

NAMES = ("tiny-a", "tiny-b", "tiny-c")
IMAGES = 400


def refile(
    zoo: "Zoo", reseal: Callable[[Path], None], say: Callable[[int, str, SplitPredictions], SplitPredictions]
) -> "Zoo":
    """Give the tiny zoo cards that say what was held out, and the predictions that `say` makes of those it has.

    Args:
        zoo: its members cost 1, 2 and 3 G multiply-adds then.
        reseal: makes an entry's sums right again.
        say: takes a member's number, the split's name and what is stored.
    """
    for number, name in enumerate(NAMES):
        entry, folder = zoo.entry(name), zoo.source / name
        stored = {split: say(number, split, kept) for split, kept in entry.predictions().splits.items()}
        card = replace(
            entry.card,
            trained_on={"images": 90, "fingerprint": "1" * 64, "held_out": stored["val"].fingerprint},
            multiply_adds=(number + 1) * 10**9,
        )
        (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
        (folder / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(folder)
    return zoo


@pytest.fixture
def fittable(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with members that are equally good, and images that are easy or hard for all of them."""
    rng = np.random.default_rng(0)

    def say(number: int, split: str, kept: SplitPredictions) -> SplitPredictions:
        del number
        same, size = np.random.default_rng(7), IMAGES if split == "val" else 60
        labels = same.integers(0, 10, size) if split == "val" else kept.labels
        hint = 12 * same.beta(1.5, 0.7, size)[:, None] * np.eye(10)[labels]
        views = {v: (hint + rng.standard_normal((size, 10))).astype(np.float16) for v in ("none", "flip")}
        return SplitPredictions(views, labels.astype(np.int64), kept.fingerprint)

    return refile(zoo, reseal, say)


def lock(path: Path, committee: Committee) -> Path:
    write_lockfile(path, committee, fitted_on=None, metrics={})
    return path


def read(outcome: "Outcome") -> dict[str, Any]:
    """Return the JSON that is all of a command's stdout."""
    assert (outcome.code, outcome.err) == (0, "")
    table: dict[str, Any] = json.loads(outcome.out)
    return table
