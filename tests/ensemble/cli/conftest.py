"""What is shared by the tests of commands that fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from zoo.predictions import Predictions, SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

NAMES = ("tiny-a", "tiny-b", "tiny-c")
IMAGES = 400


@pytest.fixture
def fittable(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with cards that say what was held out, and predictions that know something, on both splits."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        entry, folder = zoo.entry(name), zoo.source / name
        stored = dict(entry.predictions().splits)
        mark = stored["val"].fingerprint
        for split, size in (("val", IMAGES), ("test", 60)):
            same = np.random.default_rng(7)  # which images are hard is the same for all
            labels = same.integers(0, 10, size) if split == "val" else stored["test"].labels
            hint = 12 * same.beta(1.5, 0.7, size)[:, None] * np.eye(10)[labels]
            views = {v: (hint + rng.standard_normal((size, 10))).astype(np.float16) for v in ("none", "flip")}
            stored[split] = SplitPredictions(views, labels.astype(np.int64), stored[split].fingerprint)
        card = replace(
            entry.card,
            trained_on={"images": 90, "fingerprint": "1" * 64, "held_out": mark},
            multiply_adds=(number + 1) * 10**9,
        )
        (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
        (folder / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(folder)
    return zoo
