"""Crops against slicing, flips by their definition, and epochs that can be had again."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import random_split
from tests.training.conftest import CPU
from training.augment import Batches, crop, flip_mask
from training.recipe import Augment
from zoo.data import Split

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def make(split: Split, augment: Augment, *, batch_size: int = 8, seed: int = 0) -> Batches:
    return Batches(split, augment, batch_size, seed, MEAN, STD, CPU)


def numbered(images: int, size: int = 4) -> Split:
    """Images of which no two are alike, even mirrored; the label of each is its number."""
    split = random_split(images, classes=images, size=size)
    return replace(split, labels=np.arange(images, dtype=np.int64))


def pixels(images: Tensor) -> np.ndarray:
    """Undo the normalisation: float32 `[B, 3, H, W]` -> uint8 `[B, H, W, 3]`."""
    values = images.permute(0, 2, 3, 1).double().numpy() * STD + MEAN
    np.testing.assert_allclose(values * 255, (values * 255).round(), atol=1e-3)
    return (values * 255).round().astype(np.uint8)


def flat(batches: Batches, epoch: int, start: int = 0) -> tuple[Tensor, list[int]]:
    drawn = list(batches.epoch(epoch, start))
    return torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn]).tolist()


def test_crop_is_slicing() -> None:
    generator = torch.Generator().manual_seed(0)
    padded = torch.randint(0, 256, (30, 9, 11, 3), dtype=torch.uint8, generator=generator)
    offsets = torch.randint(0, 5, (30, 2), generator=generator)
    cut = crop(padded, offsets, (5, 7))
    assert cut.shape == (30, 5, 7, 3)
    for image, (top, left), got in zip(padded, offsets.tolist(), cut, strict=True):
        assert torch.equal(got, image[top : top + 5, left : left + 7])


def test_flip_none_and_random() -> None:
    assert not flip_mask("none", 100, 3, 1).any()
    masks = torch.stack([flip_mask("random", 4000, epoch, 1) for epoch in range(8)])
    # Binomial: half of 4,000 with a standard deviation of 31.6; each image in 4 of 8 epochs on the average.
    assert masks.sum(1).sub(2000).abs().max() < 5 * 31.6
    # Independent between epochs: two of them agree on half of the images.
    agree = (masks[:, None] == masks[None]).sum(2)[~torch.eye(8, dtype=torch.bool)]
    assert agree.sub(2000).abs().max() < 5 * 31.6


def test_alternating_flip_is_drawn_once() -> None:
    first = flip_mask("alternating", 4000, 0, 1)
    assert abs(int(first.sum()) - 2000) < 5 * 31.6
    for epoch in range(1, 6):
        assert torch.equal(flip_mask("alternating", 4000, epoch, 1), first ^ bool(epoch % 2))
    assert not torch.equal(flip_mask("alternating", 4000, 0, 2), first)


def test_alternating_epochs_mirror_each_other() -> None:
    split = numbered(24)
    batches = make(split, Augment("alternating", 0))
    views = []
    for epoch in range(3):
        images, labels = flat(batches, epoch)
        views.append(dict(zip(labels, pixels(images), strict=True)))
    for label, original in enumerate(split.images):
        as_is, mirrored = original, original[:, ::-1]
        seen = [bool((view[label] == mirrored).all()) for view in views]
        assert seen in ([True, False, True], [False, True, False])
        for view, flipped in zip(views, seen, strict=True):
            np.testing.assert_array_equal(view[label], mirrored if flipped else as_is)


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    split = numbered(24)
    batches = make(split, Augment())
    images, first = flat(batches, 0)
    _, second = flat(batches, 1)
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != list(range(24))
    np.testing.assert_array_equal(pixels(images), split.images[first])


def test_incomplete_batch_is_left_out_but_not_the_same_images() -> None:
    batches = make(numbered(30), Augment())
    assert len(batches) == 3
    left = [set(range(30)) - set(flat(batches, epoch)[1]) for epoch in range(4)]
    assert [len(images) for images in left] == [6] * 4
    assert len(set().union(*left)) > 6


def test_batches_are_normalised_channels_last_and_typed() -> None:
    images, labels = next(make(numbered(24), Augment("random", 1)).epoch(0))
    assert images.shape == (8, 3, 4, 4)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (8,)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
def test_every_image_is_a_window_of_its_reflected_original(flip: Literal["none", "random", "alternating"]) -> None:
    split = numbered(40, size=6)
    padded = np.stack([np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect") for image in split.images])
    seen, mirrored = set(), 0
    batches = make(split, Augment(flip, 2))
    for epoch in range(6):
        images, labels = flat(batches, epoch)
        for image, label in zip(pixels(images), labels, strict=True):
            found = [
                (top, left, mirror)
                for top in range(5)
                for left in range(5)
                for mirror in (1, -1)
                if np.array_equal(padded[label, top : top + 6, left : left + 6][:, ::mirror], image)
            ]
            assert len(found) == 1
            seen.add(found[0][:2])
            mirrored += found[0][2] < 0
    assert seen == {(top, left) for top in range(5) for left in range(5)}
    # Of 240: none, or about half (standard deviation 7.7; exactly half if alternating).
    assert (mirrored == 0) if flip == "none" else abs(mirrored - 120) < 5 * 7.8
    if flip == "alternating":
        assert mirrored == 120


def test_offsets_are_uniform_and_independent_of_each_other() -> None:
    # Pixel (r, c) of each image is 16 r + c, so that a crop's first pixel tells its offsets.
    grid = (16 * np.arange(12)[:, None] + np.arange(12)).astype(np.uint8)
    split = Split(np.repeat(grid[None, :, :, None], 5000, 0).repeat(3, 3), np.zeros(5000, np.int64), ("a",))
    images, _ = flat(make(split, Augment(crop_padding=2), batch_size=5000), 0)
    centre = pixels(images)[:, 5, 5, 0].astype(int)
    down, right = centre // 16 - 3, centre % 16 - 3
    counts = np.histogram2d(down, right, bins=[np.arange(6) - 0.5] * 2)[0]
    assert counts.sum() == 5000
    # Chi-squared with 24 degrees of freedom exceeds 60 once in 16,000 times.
    assert ((counts - 200) ** 2 / 200).sum() < 60


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    split, augment = numbered(24), Augment("random", 1)
    one, other = make(split, augment), make(split, augment)
    torch.manual_seed(1)
    flat(one, 0)
    expected = flat(one, 5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    images, labels = flat(other, 5)
    assert torch.equal(images, expected[0])
    assert labels == expected[1]
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was never drawn from
    assert flat(make(split, augment, seed=1), 5)[1] != expected[1]
    assert flat(one, 6)[1] != expected[1]


def test_start_gives_the_tail_of_the_same_epoch() -> None:
    batches = make(numbered(40), Augment("random", 1))
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == 5
    for start in range(6):
        tail = list(batches.epoch(2, start))
        assert len(tail) == 5 - start
        for (images, labels), (images_again, labels_again) in zip(whole[start:], tail, strict=True):
            assert torch.equal(images, images_again)
            assert torch.equal(labels, labels_again)


def test_batch_size_does_not_change_what_is_drawn() -> None:
    split, augment = numbered(24), Augment("random", 1)
    images, labels = flat(make(split, augment, batch_size=4), 0)
    images_again, labels_again = flat(make(split, augment, batch_size=12), 0)
    assert labels == labels_again
    assert torch.equal(images, images_again)
