"""Stored predictions: sorted, rounded, and held to the network that made them."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import random_split
from tta.stored import TOLERANCE, largest_difference, predict_split
from zoo.data import Split
from zoo.entry import Entry, write_entry
from zoo.errors import CorruptError, DataError, NotFoundError
from zoo.predictions import Predictions

CPU = torch.device("cpu")
STATS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture
def split() -> Split:
    return random_split(24, seed=1)


def test_rows_are_sorted_by_image_hash_and_logits_are_fp16(split: Split) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    counted: list[int] = []
    stored = predict_split(net, split, STATS, CPU, counted.append)
    assert sum(counted) == 24
    order = sorted(range(24), key=lambda i: hashlib.sha256(split.images[i].tobytes()).hexdigest())
    np.testing.assert_array_equal(stored.labels, split.labels[order])
    weight, bias = (p.detach().double().numpy() for p in net.parameters())
    assert list(stored.views) == ["none", "flip"]
    for view, pixels in (("none", split.images[order]), ("flip", split.images[order, :, ::-1])):
        inputs = ((pixels / 255 - np.array(STATS[0])) / np.array(STATS[1])).transpose(0, 3, 1, 2).reshape(24, -1)
        assert stored.views[view].dtype == np.float16
        np.testing.assert_allclose(stored.views[view], inputs @ weight.T + bias, rtol=2**-11, atol=1e-4)


def test_order_of_the_images_does_not_matter(split: Split) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    shuffled = split.subset(np.random.default_rng(0).permutation(24))
    one, two = (predict_split(net, s, STATS, CPU) for s in (split, shuffled))
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.labels, two.labels)
    for view, logits in one.views.items():
        np.testing.assert_allclose(two.views[view], logits, atol=2e-3)


@pytest.fixture
def entry(make_entry: Callable[..., Entry], split: Split, tmp_path: Path) -> Entry:
    return make_entry(tmp_path / "zoo", "tiny", splits={"test": split})


def changed(entry: Entry, row: int, view: str, by: float) -> Entry:
    """An entry beside this one whose stored logits differ in one place."""
    stored = entry.predictions()
    views = {name: logits.copy() for name, logits in stored.splits["test"].views.items()}
    views[view][row, 3] += np.float16(by)
    forged = Predictions({"test": dataclasses.replace(stored.splits["test"], views=views)})
    folder = entry.folder.parent.parent / "forged" / entry.name
    return write_entry(folder, entry.card, entry.read("model.safetensors"), forged)


def test_an_honest_entry_differs_by_rounding_alone(entry: Entry, split: Split) -> None:
    counted: list[int] = []
    gap = largest_difference(entry, "test", split, 24, device=CPU, progress=counted.append)
    largest = max(np.abs(logits.astype(float)).max() for logits in entry.predictions().splits["test"].views.values())
    assert 0 < gap <= largest * 2**-11 + 1e-4
    assert gap < TOLERANCE
    assert sum(counted) == 24


@pytest.mark.parametrize("view", ["none", "flip"])
def test_a_changed_logit_is_found_if_its_row_is_run(entry: Entry, split: Split, view: str) -> None:
    forged = changed(entry, 7, view, 0.5)
    assert largest_difference(forged, "test", split, 24, device=CPU) == pytest.approx(0.5, abs=0.01)
    assert largest_difference(forged, "test", split, 8, device=CPU) > TOLERANCE
    counted: list[int] = []
    assert largest_difference(forged, "test", split, 7, device=CPU, progress=counted.append) < 0.01
    assert sum(counted) == 7


def test_rows_are_found_whatever_order_the_split_has(entry: Entry, split: Split) -> None:
    shuffled = split.subset(np.random.default_rng(0).permutation(24))
    assert largest_difference(entry, "test", shuffled, 10, device=CPU) < 0.01


def test_missing_split_is_named(entry: Entry, split: Split) -> None:
    with pytest.raises(NotFoundError, match="'tiny' has no stored predictions for the val split"):
        largest_difference(entry, "val", split, 4, device=CPU)


def test_entry_without_predictions_is_named(make_entry: Callable[..., Entry], split: Split, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"bare has no predictions\.safetensors"):
        largest_difference(make_entry(tmp_path, "bare"), "test", split, 4, device=CPU)


def test_predictions_for_other_images_are_refused(entry: Entry, split: Split) -> None:
    mark = entry.predictions().splits["test"].fingerprint[:8]
    with pytest.raises(DataError, match=rf"stored predictions for other test images \(fingerprint {mark}\)"):
        largest_difference(entry, "test", random_split(24, seed=2), 4, device=CPU)
    with pytest.raises(DataError, match="other test images"):
        largest_difference(entry, "test", split.subset(slice(23)), 4, device=CPU)


def test_damaged_predictions_are_refused_before_the_network_runs(entry: Entry, split: Split) -> None:
    path = entry.folder / "predictions.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError, match="damaged"):
        largest_difference(entry, "test", split, 4, device=CPU)
