"""Splits and the held-out part, against hashlib and counting."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import random_split
from zoo.data import Split, hold_out
from zoo.errors import DataError

IMAGES = np.zeros((3, 2, 4, 3), np.uint8)
LABELS = np.array([0, 1, 1])
CLASSES = ("a", "b")


def pairs(split: Split) -> list[tuple[str, int]]:
    """Return (image hash, label) of each image, in its order."""
    return [
        (hashlib.sha256(image.tobytes()).hexdigest(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def few_colours(images: int, classes: int, seed: int, colours: int = 4) -> Split:
    """Return a split of 1 x 1 images that occur again and again, in several classes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, colours, (images, 1, 1, 1), np.uint8).repeat(3, -1)
    return Split(pixels, rng.integers(0, classes, images), tuple(f"class{i}" for i in range(classes)))


def shuffled(split: Split, seed: int = 0) -> Split:
    return split.subset(np.random.default_rng(seed).permutation(len(split)))


def test_hashes_order_and_fingerprint() -> None:
    split = random_split(25, size=3)
    told = pairs(split)
    assert split.hashes.tolist() == [digest.encode() for digest, _ in told]
    assert [told[row] for row in split.order] == sorted(told)
    text = "".join(f"{digest} {label}\n" for digest, label in sorted(told))
    assert split.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_twins_are_ordered_by_their_labels() -> None:
    split = few_colours(60, 3, seed=1)
    told = pairs(split)
    assert [told[row] for row in split.order] == sorted(told)
    assert sorted(split.order.tolist()) == list(range(60))
    assert shuffled(split).fingerprint == split.fingerprint


def test_the_fingerprint_is_of_pixels_and_labels_alone() -> None:
    split = random_split(8, size=2)
    assert shuffled(split).fingerprint == split.fingerprint
    assert Split(split.images, split.labels, tuple("0123456789")).fingerprint == split.fingerprint
    turned = split.images.transpose(0, 2, 1, 3)
    assert Split(turned, split.labels, split.classes).fingerprint != split.fingerprint
    strided = Split(np.ascontiguousarray(turned).transpose(0, 2, 1, 3), split.labels, split.classes)
    assert strided.fingerprint == split.fingerprint
    labels = split.labels.copy()
    labels[3] = 9
    assert Split(split.images, labels, split.classes).fingerprint != split.fingerprint
    images = split.images.copy()
    images[0, 0, 0, 0] ^= 1
    assert Split(images, split.labels, split.classes).fingerprint != split.fingerprint
    assert split.subset(slice(7)).fingerprint != split.fingerprint


def test_subset() -> None:
    split = random_split(9, size=2)
    for rows in (np.array([3, 1, 1]), np.arange(9) % 2 == 0, slice(2, 5)):
        part = split.subset(rows)
        assert np.array_equal(part.images, split.images[rows])
        assert np.array_equal(part.labels, split.labels[rows])
        assert part.classes == split.classes
        assert len(part) == len(part.labels) > 0


@pytest.mark.parametrize("rows", [np.array([3, 1, 1]), np.arange(9) % 2 == 0, slice(2, 5)])
def test_a_subset_of_a_hashed_split_has_the_hashes_of_its_own_images(rows: "np.ndarray | slice") -> None:
    split = random_split(9, size=2)
    assert len(split.order) == 9
    part = split.subset(rows)
    assert [digest.decode() for digest in part.hashes.tolist()] == [digest for digest, _ in pairs(part)]
    assert part.fingerprint == Split(part.images, part.labels, part.classes).fingerprint


def test_an_empty_split() -> None:
    split = Split(IMAGES[:0], LABELS[:0], CLASSES)
    assert len(split) == 0
    assert split.fingerprint == hashlib.sha256().hexdigest()
    assert [len(part) for part in hold_out(split)] == [0, 0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, r"images must be uint8 \[N, H, W, 3\], got float32"),
        (IMAGES.astype(np.int64), LABELS, "got int64"),
        (IMAGES[0], LABELS, r"got uint8 \[2, 4, 3\]"),
        (IMAGES[..., :1], LABELS, r"got uint8 \[3, 2, 4, 1\]"),
        (IMAGES, LABELS[:2], r"3 images have labels of type int64 and shape \[2\]"),
        (IMAGES, LABELS[:, None], r"shape \[3, 1\]"),
        (IMAGES, LABELS.astype(np.float64), "labels of type float64"),
        (IMAGES, LABELS + 1, r"labels must lie in 0\.\.1, got 1\.\.2"),
        (IMAGES, LABELS - 1, r"got -1\.\.0"),
    ],
)
def test_what_does_not_fit_together(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(images, labels, CLASSES)


@pytest.mark.parametrize(("images", "fraction", "held"), [(200, 0.1, 2), (200, 0.25, 5), (40, 0.1, 0), (60, 0.5, 3)])
def test_a_share_of_every_class_is_held_out(images: int, fraction: float, held: int) -> None:
    split = random_split(images, size=2)
    _, val = hold_out(split, fraction)
    assert Counter(val.labels.tolist()) == (dict.fromkeys(range(10), held) if held else {})


def test_ten_percent_is_the_default_whatever_the_sizes_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation([0] * 100 + [1] * 30 + [2] * 10)
    split = Split(rng.integers(0, 256, (140, 4, 4, 3), np.uint8), labels, ("a", "b", "c"))
    assert Counter(hold_out(split)[1].labels.tolist()) == {0: 10, 1: 3, 2: 1}


def test_the_smallest_hashes_of_each_class_are_held_out() -> None:
    split = random_split(300, classes=3, size=2)
    told = pairs(split)
    wanted = {p for label in range(3) for p in sorted(q for q in told if q[1] == label)[:10]}
    part, val = hold_out(split)
    assert pairs(val) == [p for p in told if p in wanted], "in the order of the split"
    assert pairs(part) == [p for p in told if p not in wanted]
    assert part.classes == val.classes == split.classes


@settings(max_examples=40, database=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(0, 1000), st.floats(0.05, 0.95))
def test_the_same_images_whatever_the_order_and_never_a_twin_on_both_sides(
    images: int, classes: int, seed: int, fraction: float
) -> None:
    split = few_colours(images, classes, seed, colours=12)
    part, val = hold_out(split, fraction)
    assert Counter(pairs(part)) + Counter(pairs(val)) == Counter(pairs(split))
    assert not {digest for digest, _ in pairs(part)} & {digest for digest, _ in pairs(val)}
    turned_part, turned_val = hold_out(shuffled(split, seed), fraction)
    assert Counter(pairs(turned_val)) == Counter(pairs(val))
    assert turned_part.fingerprint == part.fingerprint
    # At least the share of every class; more only where twins come along.
    held = Counter(val.labels.tolist())
    assert all(held[label] >= round(fraction * n) for label, n in Counter(split.labels.tolist()).items())


def test_a_twin_in_another_class_comes_along() -> None:
    base = random_split(100, classes=2, size=2)
    first = min(p for p in pairs(base) if p[1] == 0)
    row = pairs(base).index(first)
    images = np.concatenate([base.images, base.images[row : row + 1]])
    split = Split(images, np.append(base.labels, 1), base.classes)
    part, val = hold_out(split)
    assert {label for digest, label in pairs(val) if digest == first[0]} == {0, 1}
    assert first[0] not in {digest for digest, _ in pairs(part)}
