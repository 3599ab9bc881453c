"""Fixed crops: which there are, which are shown when, and that their answers belong to what is shown."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.conftest import CPU, toy_split
from training.augment import Answers, Batches
from training.augment.fixed import check_fixed, crops_there_are, draw_crops, pick_crops
from training.recipe import Augment
from zoo.errors import UsageError

IMAGES, CROPS = 26, 4
STATS = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


@given(images=st.integers(1, 40), padding=st.integers(0, 3), data=st.data())
@settings(max_examples=40)
def test_crops_of_an_image_differ_and_fewer_are_the_first_of_more(images: int, padding: int, data: Any) -> None:  # noqa: ANN401
    augment, side = Augment(crop_padding=padding), 2 * padding + 1
    assert crops_there_are(augment) == side * side
    crops = data.draw(st.integers(1, side * side))
    drawn = draw_crops(images, augment, crops)
    assert drawn.shape == (crops, images, 2)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < side
    for image in range(images):
        assert len({(int(y), int(x)) for y, x in drawn[:, image]}) == crops
    assert torch.equal(draw_crops(images, augment, side * side)[:crops], drawn)


def test_all_crops_are_alike() -> None:
    augment, images = Augment(crop_padding=1), 6000
    first = draw_crops(images, augment, 1)[0]
    counts = torch.bincount(first[:, 0] * 3 + first[:, 1], minlength=9)
    assert float(((counts - images / 9) ** 2 / (images / 9)).sum()) < 26.1  # chi squared of 8 degrees, 99.9 %


@pytest.mark.parametrize("crops", [0, 10, -1])
def test_there_are_no_more_crops_than_shifts(crops: int) -> None:
    with pytest.raises(UsageError, match=rf"^{crops} crops of an image: with augment\.crop_padding = 1, 1\.\.9$"):
        draw_crops(5, Augment(crop_padding=1), crops)


def test_in_as_many_epochs_every_crop_is_shown_once_in_an_order_of_the_seeds_own() -> None:
    def cycle(seed: int, number: int) -> Tensor:
        return torch.stack([pick_crops(50, CROPS, seed, number * CROPS + turn) for turn in range(CROPS)])

    for seed in (1, 2):
        for number in (0, 1, 2):
            assert torch.equal(cycle(seed, number).sort(0).values, torch.arange(CROPS).repeat(50, 1).T)
    assert not torch.equal(cycle(1, 0), cycle(2, 0))
    assert not torch.equal(cycle(1, 0), cycle(1, 1))


def test_alternating_epochs_show_every_crop_once_from_either_side() -> None:
    split, augment = toy_split(IMAGES, size=9), Augment("alternating", 2)
    batches = Batches(split, augment, IMAGES, 3, *STATS, CPU, answers=told_apart(augment, 2))
    shown: list[tuple[int, ...]] = []
    for epoch in range(2 * CROPS):
        for _, _, said in batches.taught(epoch):
            assert said is not None
            shown += map(tuple, said.int().tolist())
    assert len(shown) == 2 * CROPS * IMAGES
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("change", "key"), [({"policy": "randaugment"}, "policy"), ({"cutout": 4}, "cutout"), ({"mix": "mixup"}, "mix")]
)
def test_more_than_crops_and_flips_is_refused(change: dict[str, Any], key: str) -> None:
    check_fixed(Augment("random", 2))
    with pytest.raises(UsageError, match=rf"^answers are stored for crops and flips only, .* has augment\.{key}$"):
        check_fixed(Augment("random", 2, **change))
    answers = Answers(draw_crops(IMAGES, Augment(crop_padding=2), 1), torch.zeros(1, 1, IMAGES, 3))
    with pytest.raises(UsageError, match=key):
        Batches(toy_split(IMAGES, size=9), Augment("random", 2, **change), 6, 0, *STATS, CPU, answers=answers)


def test_answers_to_other_images_are_refused() -> None:
    answers = Answers(draw_crops(7, Augment(crop_padding=2), 1), torch.zeros(1, 1, 7, 3))
    with pytest.raises(UsageError, match=r"^the answers are to 7 images, not to 26$"):
        Batches(toy_split(IMAGES, size=9), Augment("random", 2), 6, 0, *STATS, CPU, answers=answers)


def told_apart(augment: Augment, sides: int) -> Answers:
    """Answers that say which crop of which image they are to, and on which side."""
    table = torch.cartesian_prod(*(torch.arange(n) for n in (CROPS, sides, IMAGES))).float()
    return Answers(draw_crops(IMAGES, augment, CROPS), table.view(CROPS, sides, IMAGES, 3))


@pytest.mark.parametrize("kind", ["none", "random", "alternating"])
@pytest.mark.parametrize("sides", [1, 2])
def test_answers_belong_to_what_is_shown(kind: Any, sides: int) -> None:  # noqa: ANN401  # a literal
    """Each shown image is cut anew out of the split, where its answer says, in numpy."""
    split, augment = toy_split(IMAGES, size=9), Augment(kind, 2)
    answers = told_apart(augment, sides)
    batches = Batches(split, augment, 6, 3, *STATS, CPU, answers=answers)
    padded = np.pad(split.images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    sides_seen = set()
    for epoch in range(CROPS + 1):
        shown = set()
        for images, labels, said in batches.taught(epoch):
            assert said is not None
            assert said.dtype == torch.float32
            for image, label, (crop, side, row) in zip(images, labels, said.int().tolist(), strict=True):
                y, x = answers.offsets[crop, row].tolist()
                cut = (padded[row, y : y + 9, x : x + 9] / 255 - STATS[0]) / STATS[1]
                both = [torch.from_numpy(turned.copy()).permute(2, 0, 1).float() for turned in (cut, cut[:, ::-1])]
                fits = [bool(torch.allclose(image, one, atol=1e-4)) for one in both]
                assert fits.count(True) == 1
                assert sides == 1 or fits[side]
                assert label == split.labels[row]
                shown.add(row)
                sides_seen.add(fits.index(True))
        assert len(shown) == 24  # four batches of six
    assert sides_seen == ({0} if kind == "none" else {0, 1})


def test_images_are_those_of_a_run_that_has_no_answers_but_for_their_crops() -> None:
    split, augment = toy_split(IMAGES, size=9), Augment("alternating", 0)
    answers = Answers(draw_crops(IMAGES, augment, 1), torch.zeros(1, 1, IMAGES, 3))
    plain = Batches(split, augment, 6, 3, *STATS, CPU)
    for (images, labels), (same, also, _) in zip(
        plain.epoch(1), Batches(split, augment, 6, 3, *STATS, CPU, answers=answers).taught(1), strict=True
    ):
        assert torch.equal(images, same)
        assert torch.equal(labels, also)
    assert all(said is None for _, _, said in plain.taught(0))


def test_processes_get_the_answers_to_their_own_images() -> None:
    split, augment = toy_split(IMAGES, size=9), Augment("random", 2)
    answers = told_apart(augment, 2)
    whole = Batches(split, augment, 6, 3, *STATS, CPU, answers=answers).taught(2, start=1)
    shares = [
        Batches(split, augment, 6, 3, *STATS, CPU, rank=rank, world=2, answers=answers).taught(2, start=1)
        for rank in (0, 1)
    ]
    for (images, _, said), *parts in zip(whole, *shares, strict=True):
        assert said is not None
        for rank, (some, _, told) in enumerate(parts):
            assert told is not None
            assert torch.equal(some, images[rank::2])
            assert torch.equal(told, said[rank::2])
