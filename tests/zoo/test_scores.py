"""Accuracies against torch's softmax, and what counts as guessing."""

import numpy as np
import pytest
import torch

from zoo.predictions import SplitPredictions
from zoo.scores import accuracies, near_chance


def test_accuracies() -> None:
    rng = np.random.default_rng(0)
    views = {name: (4 * rng.standard_normal((200, 5))).astype(np.float16) for name in ("none", "flip")}
    labels = rng.integers(0, 5, 200)
    plain, flipped = (torch.from_numpy(views[name]).double().softmax(1) for name in ("none", "flip"))
    found = accuracies(SplitPredictions(views, labels, "0" * 64))
    right = torch.from_numpy(labels)
    assert found == {
        "none": float((plain.argmax(1) == right).double().mean()),
        "flip": float(((plain + flipped).argmax(1) == right).double().mean()),
    }
    assert accuracies(SplitPredictions({"none": views["none"]}, labels, "")) == {"none": found["none"]}


@pytest.mark.parametrize(("accuracy", "classes", "near"), [(0.1, 10, True), (0.32, 10, True), (0.33, 10, False)])
def test_near_chance(accuracy: float, classes: int, near: bool) -> None:
    assert near_chance(accuracy, classes) is near
    assert near_chance(0.6, 2)
    assert not near_chance(0.65, 2)
