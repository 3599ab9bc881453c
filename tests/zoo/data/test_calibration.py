"""Images to calibrate on: training images alone, balanced, and the same whatever order they came in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import random_split
from tests.zoo.conftest import write_mosaic
from zoo.data import Split, load_split, load_training
from zoo.data.calibration import SHIPPED_IMAGES, load_calibration, sample
from zoo.errors import DataError, MenagerieError, NotFoundError, UsageError


def pixels(split: Split) -> set[bytes]:
    return set(split.hashes.tolist())


def test_what_ships() -> None:
    shipped = load_calibration("cifar10")
    assert (len(shipped), SHIPPED_IMAGES) == (512, 512)
    assert shipped.images.shape[1:] == (32, 32, 3)
    assert shipped.classes == load_split("cifar10", "test").classes
    counts = np.bincount(shipped.labels, minlength=10)
    assert (counts.min(), counts.max()) == (51, 52)
    assert len(pixels(shipped)) == 512


def test_what_ships_is_none_of_the_test_images() -> None:
    test = load_split("cifar10", "test")
    assert not pixels(load_calibration("cifar10")) & pixels(test)


def test_what_ships_is_none_of_the_validation_images() -> None:
    """The tenth of each class with the smallest hashes is held out, and calibrated is on the next."""
    shipped = load_calibration("cifar10")
    for label in range(10):
        own = np.array([int(digest[:8], 16) / 2**32 for digest in shipped.hashes[shipped.labels == label]])
        assert 0.09 < own.min() < 0.11, "about where the tenth ends"
        assert own.max() - own.min() < 0.02, "51 or 52 of 4,500 in a row are about 0.01"


def test_and_is_all_of_what_a_folder_would_give(tmp_path: Path) -> None:
    """Where all training images are at hand, val has its fingerprint, and the calibration images another."""
    folder = write_mosaic(
        tmp_path / "data", {"train-1": random_split(200, seed=1), "train-2": random_split(100, seed=2)}
    )
    part, val = load_training("cifar10", folder)
    found = load_calibration("cifar10", folder, images=64)
    assert pixels(found) <= pixels(part)
    assert not pixels(found) & pixels(val)
    assert len({found.fingerprint, val.fingerprint, part.fingerprint}) == 3
    assert sorted(found.hashes.tolist()) == sorted(
        digest
        for label in range(10)
        for digest in np.sort(part.hashes[part.labels == label])[: 7 if label < 4 else 6].tolist()
    )


@given(st.permutations(range(40)), st.integers(1, 40), st.integers(1, 40))
def test_the_order_of_the_images_does_not_matter(order: list[int], images: int, more: int) -> None:
    part = random_split(40, classes=3, size=4)
    shuffled = part.subset(np.array(order))
    chosen, other = sample(part, images), sample(shuffled, images)
    assert chosen.hashes.tolist() == other.hashes.tolist()
    assert chosen.labels.tolist() == other.labels.tolist()
    assert chosen.fingerprint == other.fingerprint
    longer = sample(shuffled, max(images, more))
    assert longer.hashes.tolist()[:images] == chosen.hashes.tolist(), "a smaller sample begins a larger one"
    counts = np.bincount(chosen.labels, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_a_class_with_few_images_gives_all_it_has() -> None:
    part = random_split(60, classes=3, size=4)
    rows = np.flatnonzero((part.labels != 1) | (np.arange(60) < 7))
    chosen = sample(part.subset(rows), 30)
    assert np.bincount(chosen.labels).tolist() == [14, 2, 14]


def test_more_than_there_are() -> None:
    with pytest.raises(UsageError) as no:
        load_calibration("cifar10", images=513)
    assert str(no.value) == "513 calibration images: there are 512; give fewer, or --data DIR with more of them"
    assert len(load_calibration("cifar10", images=10)) == 10
    for wrong in (0, -5):
        with pytest.raises(UsageError, match=f"^{wrong} calibration images: give a number from 1$"):
            load_calibration("cifar10", images=wrong)


def test_another_size() -> None:
    assert load_calibration("cifar10", images=2, size=(32, 32)).images.shape == (2, 32, 32, 3)
    with pytest.raises(DataError, match="the shipped calibration images are of 32 x 32 pixels: give --data DIR"):
        load_calibration("cifar10", size=(64, 64))


def test_other_datasets_do_not_ship() -> None:
    with pytest.raises(
        NotFoundError, match=r"train images of cifar100 do not ship .*: give --data DIR, or set ZOO_DATA"
    ):
        load_calibration("cifar100")
    with pytest.raises(MenagerieError, match=r"unknown dataset 'flowers'.*give --data DIR"):
        load_calibration("flowers")


def test_but_may_lie_where_data_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_mosaic(tmp_path / "all" / "cifar100", {"train-1": random_split(300, classes=100, size=8)})
    by_folder = load_calibration("cifar100", folder, images=100)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "all"))
    found = load_calibration("cifar100", images=100)
    assert found.fingerprint == by_folder.fingerprint
    assert np.bincount(found.labels).tolist() == [1] * 100


def test_data_that_is_not_what_it_should_be(tmp_path: Path) -> None:
    folder = write_mosaic(tmp_path / "data", {"train-1": random_split(300, classes=100, size=8)})
    with pytest.raises(DataError, match="has 100 classes, cifar10 has 10: this is another dataset"):
        load_calibration("cifar10", folder, images=10)
    with pytest.raises(NotFoundError, match="does not exist"):
        load_calibration("cifar10", tmp_path / "nowhere", images=10)
