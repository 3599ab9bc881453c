"""Whole batches: against a slow twin that takes one image at a time, and epochs that can be had again."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from tests.conftest import random_split
from tests.training.conftest import CPU
from training.augment import Batches, batches
from training.augment.cutout import draw_centres
from training.augment.geometry import flip_mask
from training.augment.mix import draw_mixings
from training.augment.policies import autoaugment, randaugment
from training.augment.streams import Stream, numpy_generator, torch_generator
from training.recipe import Augment
from zoo.data import Split
from zoo.errors import UsageError
from zoo.images import normalize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
RICH = Augment("random", 2, "zeros", "autoaugment", cutout=4, mix="random", mix_share=0.7)
"""Everything at once."""


def make(split: Split, augment: Augment, *, batch_size: int = 8, seed: int = 0, **more: Any) -> Batches:  # noqa: ANN401
    return Batches(split, augment, batch_size, seed, MEAN, STD, CPU, **more)


def numbered(images: int, size: int = 4) -> Split:
    """Images of which no two are alike, even mirrored; the label of each is its number."""
    split = random_split(images, classes=images, size=size)
    return replace(split, labels=np.arange(images, dtype=np.int64))


def oblong(images: int, classes: int) -> Split:
    split = random_split(images, classes, size=16)
    return replace(split, images=split.images[:, :10])


def assert_equal(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> None:
    for (images, targets), (images_again, targets_again) in zip(some, others, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(targets, targets_again)


def one_by_one(
    split: Split, augment: Augment, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The slow twin: numpy, torchvision and loops, one image at a time."""
    count, size, pad = len(split), split.images.shape[1:3], augment.crop_padding
    generator = torch_generator(seed, Stream.ORDER, epoch)
    order = torch.randperm(count, generator=generator).tolist()
    offsets = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator).tolist()
    flips = flip_mask(augment.flip, count, epoch, seed).tolist()
    policy = {"autoaugment": autoaugment(size), "randaugment": randaugment(2, 9, size)}[augment.policy]
    ops = policy.draw(count, torch_generator(seed, Stream.POLICY, epoch)).tolist()
    centres = draw_centres(count, size, torch_generator(seed, Stream.CUTOUT, epoch)).tolist()
    mixings = draw_mixings(augment, count // batch_size, size, numpy_generator(seed, Stream.MIX, epoch))
    transform = v2.RandAugment()

    def single(row: int) -> Tensor:
        mode: Any = {"zeros": "constant", "reflect": "reflect"}[augment.crop_fill]
        padded = np.pad(split.images[row], ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        top, left = offsets[row]
        window = padded[top : top + size[0], left : left + size[1]]
        image = torch.tensor((window[:, ::-1] if flips[row] else window).copy()).permute(2, 0, 1)
        for k in ops[row]:
            image = transform._apply_image_or_video_transform(image, *policy.ops[k], transform.interpolation, {})
        values: Tensor = v2.functional.normalize(image.float() / 255, MEAN, STD)
        for y in range(size[0]):
            for x in range(size[1]):
                if all(
                    -(augment.cutout // 2) <= at - c < augment.cutout / 2
                    for at, c in zip((y, x), centres[row], strict=True)
                ):
                    values[:, y, x] = 0
        return values

    for number, mixing in enumerate(mixings):
        rows = order[number * batch_size : (number + 1) * batch_size]
        images = [single(row) for row in rows]
        probs = [torch.eye(len(split.classes))[split.labels[row]] for row in rows]
        if mixing:
            share = mixing.share
            partners = [images[-1], *images[:-1]]
            if mixing.box is None:
                images = [share * image + (1 - share) * other for image, other in zip(images, partners, strict=True)]
            else:
                top, left, bottom, right = mixing.box
                images = [image.clone() for image in images]
                for image, other in zip(images, partners, strict=True):
                    image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            probs = [share * p + (1 - share) * other for p, other in zip(probs, [probs[-1], *probs[:-1]], strict=True)]
        yield torch.stack(images), torch.stack(probs)


@pytest.mark.parametrize(
    "augment",
    [RICH, replace(RICH, crop_fill="reflect", policy="randaugment", flip="alternating", cutout=5, mix="cutmix")],
    ids=["autoaugment", "randaugment"],
)
def test_all_at_once_is_one_by_one(augment: Augment) -> None:
    split = oblong(70, classes=10)
    for epoch in (0, 3):
        expected = list(one_by_one(split, augment, 10, 5, epoch))
        got = list(make(split, augment, batch_size=10, seed=5).epoch(epoch))
        assert len(got) == len(expected) == 7
        for (images, probs), (slow_images, slow_probs) in zip(got, expected, strict=True):
            # fp32, normalised in another order of operations; a pixel's level is 0.013 or more.
            torch.testing.assert_close(images, slow_images, atol=1e-5, rtol=0, check_stride=False)
            torch.testing.assert_close(probs, slow_probs)


def test_pixels_are_normalised_as_everywhere_else() -> None:
    split = numbered(24)
    for images, labels in make(split, Augment()).epoch(0):
        assert torch.equal(images, normalize(torch.from_numpy(split.images)[labels], MEAN, STD))


def test_types_and_memory_format() -> None:
    split = oblong(24, classes=5)
    for augment in (Augment("random", 1), RICH, replace(RICH, mix_share=0.0)):
        for images, targets in make(split, augment).epoch(0):
            assert images.shape == (8, 3, 10, 16)
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last)
            if augment.mix == "none":
                assert targets.shape == (8,)
                assert targets.dtype == torch.int64
            else:
                assert targets.shape == (8, 5)
                assert targets.dtype == torch.float32


def test_unmixed_batches_of_a_mixing_recipe_have_certain_targets() -> None:
    split = random_split(200, classes=100)
    plain = replace(RICH, mix="none")
    for augment in (replace(RICH, mix_share=0.0), RICH):
        pairs = zip(make(split, augment).epoch(0), make(split, plain).epoch(0), strict=True)
        same = 0
        for (images, probs), (unmixed, labels) in pairs:
            assert probs.shape == (8, 100)
            if torch.equal(images, unmixed):
                same += 1
                assert torch.equal(probs, torch.eye(100)[labels])
        assert same == 25 if augment.mix_share == 0 else 0 < same < 20


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    drawn = make(numbered(24), Augment())
    orders = [torch.cat([labels for _, labels in drawn.epoch(epoch)]).tolist() for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    assert orders[0] != orders[1]
    assert orders[0] != list(range(24))


def test_incomplete_batch_is_left_out_but_not_the_same_images() -> None:
    drawn = make(numbered(30), Augment())
    assert len(drawn) == 3
    left = [set(range(30)) - set(torch.cat([y for _, y in drawn.epoch(epoch)]).tolist()) for epoch in range(4)]
    assert [len(images) for images in left] == [6] * 4
    assert len(set().union(*left)) > 6


def test_alternating_epochs_mirror_each_other() -> None:
    split = numbered(24)
    drawn = make(split, Augment("alternating"))
    views: list[dict[int, Tensor]] = []
    for epoch in range(3):
        views.append({})
        for images, labels in drawn.epoch(epoch):
            views[-1] |= dict(zip(labels.tolist(), images, strict=True))
    originals = normalize(torch.from_numpy(split.images), MEAN, STD)
    for label, as_is in enumerate(originals):
        seen = [torch.equal(view[label], as_is) for view in views]
        assert seen in ([True, False, True], [False, True, False])
        for view, unchanged in zip(views, seen, strict=True):
            assert torch.equal(view[label], as_is if unchanged else as_is.flip(2))


def test_offsets_are_uniform_and_independent_of_each_other() -> None:
    # Pixel (r, c) of each image is 16 r + c, so that a crop's pixel tells its offsets.
    grid = (16 * np.arange(12)[:, None] + np.arange(12)).astype(np.uint8)
    split = Split(np.repeat(grid[None, :, :, None], 5000, 0).repeat(3, 3), np.zeros(5000, np.int64), ("a",))
    drawn = Batches(split, Augment(crop_padding=2), 5000, 0, (0, 0, 0), (1 / 255,) * 3, CPU)
    images, _ = next(drawn.epoch(0))
    centre = images[:, 0, 5, 5].round().int().numpy()
    counts = np.histogram2d(centre // 16 - 3, centre % 16 - 3, bins=[np.arange(6) - 0.5] * 2)[0]
    assert counts.sum() == 5000
    # Chi-squared with 24 degrees of freedom exceeds 60 once in 16,000 times.
    assert ((counts - 200) ** 2 / 200).sum() < 60


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    split = numbered(24)
    one, other = make(split, RICH), make(split, RICH)
    torch.manual_seed(1)
    list(one.epoch(0))
    expected = list(one.epoch(5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert_equal(list(other.epoch(5)), expected)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was never drawn from
    for different in (make(split, RICH, seed=1).epoch(5), one.epoch(6)):
        assert not any(torch.equal(x, y) for (x, _), (y, _) in zip(different, expected, strict=True))


@pytest.mark.parametrize("augment", [Augment("random", 1), RICH], ids=["plain", "rich"])
def test_start_gives_the_tail_of_the_same_epoch(augment: Augment) -> None:
    drawn = make(numbered(40), augment)
    whole = list(drawn.epoch(2))
    assert len(whole) == len(drawn) == 5
    for start in range(6):
        assert_equal(list(drawn.epoch(2, start)), whole[start:])


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = make(numbered(64, size=8), RICH)
    whole = list(drawn.epoch(0))
    for chunk in (1, 3 * 8 * 3 * 12 * 12):  # one batch at a time, then three
        monkeypatch.setattr(batches, "CHUNK", chunk)
        assert_equal(list(drawn.epoch(0)), whole)


def test_batch_size_does_not_change_what_is_drawn() -> None:
    split, augment = numbered(24), replace(RICH, mix="none")
    small, large = (list(make(split, augment, batch_size=size).epoch(0)) for size in (4, 12))
    for part in range(2):
        assert torch.equal(torch.cat([pair[part] for pair in small]), torch.cat([pair[part] for pair in large]))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch(world: int) -> None:
    split, augment = numbered(40), replace(RICH, mix="none")
    alone = make(split, augment)
    shares = [make(split, augment, rank=rank, world=world) for rank in range(world)]
    assert {len(share) for share in shares} == {len(alone)}
    parts = zip(*(share.epoch(1, 2) for share in shares), strict=True)
    for (images, labels), of_ranks in zip(alone.epoch(1, 2), parts, strict=True):
        for rank, (some_images, some_labels) in enumerate(of_ranks):
            assert torch.equal(some_images, images[rank::world])
            assert torch.equal(some_labels, labels[rank::world])


def test_each_process_mixes_its_own_images_by_the_same_draw() -> None:
    split = numbered(40)
    mixings = draw_mixings(RICH, 5, (4, 4), numpy_generator(0, Stream.MIX, 0))
    assert sum(mixing is not None for mixing in mixings) > 1
    for rank in range(2):
        mixed = make(split, RICH, rank=rank, world=2).epoch(0)
        plain = make(split, replace(RICH, mix="none"), rank=rank, world=2).epoch(0)
        for (_, probs), (_, labels), mixing in zip(mixed, plain, mixings, strict=True):
            share = mixing.share if mixing else 1.0
            own = torch.eye(40)[labels]
            torch.testing.assert_close(probs, share * own + (1 - share) * own.roll(1, 0))


def test_mixing_keeps_the_mean_of_what_it_mixes() -> None:
    # Each image is there once as itself and once as a partner, so that the mean over the batch stays the same.
    split = random_split(64)
    for kind in ("mixup", "cutmix"):
        augment = Augment(mix=kind)
        pairs = zip(
            make(split, augment, batch_size=64).epoch(0), make(split, Augment(), batch_size=64).epoch(0), strict=True
        )
        for (images, probs), (unmixed, labels) in pairs:
            torch.testing.assert_close(images.mean(0), unmixed.mean(0), atol=1e-5, rtol=0)
            torch.testing.assert_close(probs.sum(0), torch.bincount(labels, minlength=10).float())
            assert not torch.equal(images, unmixed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"world": 3}, "a batch of 8 images cannot be shared evenly by 3 processes"),
        ({"world": 2, "rank": 2}, "rank 2 is not one of 2 processes"),
        ({"rank": -1}, "rank -1 is not one of 1 processes"),
    ],
)
def test_shares_that_do_not_exist(more: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(numbered(24), Augment(), **more)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["none", "autoaugment"])
def test_on_a_gpu_batches_are_the_cpus(policy: Any) -> None:  # noqa: ANN401
    split, augment = random_split(512), replace(RICH, policy=policy)
    level = 1 / (255 * min(STD))
    differing = total = 0
    there = Batches(split, augment, 64, 0, MEAN, STD, torch.device("cuda"))
    for (images, probs), (expected, expected_probs) in zip(
        there.epoch(0), make(split, augment, batch_size=64).epoch(0), strict=True
    ):
        assert torch.equal(probs.cpu(), expected_probs)
        if policy == "none":
            torch.testing.assert_close(images.cpu(), expected, atol=1e-6, rtol=0)
        differing += int(((images.cpu() - expected).abs() > level / 100).sum())
        total += math.prod(images.shape)
    # Colour, contrast and sharpness may round a value to the level beside it.
    assert differing < 1e-3 * total
