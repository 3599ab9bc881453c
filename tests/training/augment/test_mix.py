"""Mixup and CutMix against plain loops and against torchvision's transforms."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from training.augment.mix import Mixing, cutmix, cutmix_box, draw_mixings, mix, mixup
from training.recipe import Augment

SIZE = (6, 8)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and their one-hot probabilities."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (5,), generator=generator)
    return torch.randn(5, 3, *SIZE, generator=generator), labels, torch.eye(4)[labels]


def draw(augment: Augment, batches: int = 4000, size: tuple[int, int] = (32, 32)) -> list[Mixing | None]:
    return draw_mixings(augment, batches, size, np.random.default_rng(0))


def test_mixup_blends_with_the_image_before() -> None:
    images, _, probs = batch()
    mixed, targets = mix(images.clone(), probs.clone(), Mixing(0.3))
    for i in range(5):
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[i - 1])
        torch.testing.assert_close(targets[i], 0.3 * probs[i] + 0.7 * probs[i - 1])


def test_cutmix_pastes_a_box_of_the_image_before() -> None:
    images, _, probs = batch()
    mixed, targets = mix(images.clone(), probs.clone(), Mixing(1 - 12 / 48, (1, 2, 4, 6)))
    for i in range(5):
        expected = images[i].clone()
        for row in range(1, 4):
            for column in range(2, 6):
                expected[:, row, column] = images[i - 1, :, row, column]
        assert torch.equal(mixed[i], expected)
        torch.testing.assert_close(targets[i], 0.75 * probs[i] + 0.25 * probs[i - 1])


@given(share=st.floats(0, 1))
def test_mixup_is_torchvisions(share: float) -> None:
    images, labels, probs = batch()
    transform = v2.MixUp(num_classes=4)
    params = {"labels": labels, "batch_size": 5, "lam": share}
    assert torch.equal(mixup(images, share), transform.transform(images, params))
    assert torch.equal(mixup(probs, share), transform.transform(labels, params))


@given(share=st.floats(0, 1), row=st.integers(0, SIZE[0] - 1), column=st.integers(0, SIZE[1] - 1))
def test_cutmix_is_torchvisions(share: float, row: int, column: int) -> None:
    images, labels, _ = batch()
    transform = v2.CutMix(num_classes=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transform._dist, "sample", lambda _shape: torch.tensor([share], dtype=torch.float64))
        patch.setattr(torch, "randint", lambda high, **_: torch.tensor([column if high == SIZE[1] else row]))
        params = transform.make_params([images])
    top, left, bottom, right = box = cutmix_box(share, (row, column), SIZE)
    assert params["box"] == (left, top, right, bottom)
    params |= {"labels": labels, "batch_size": 5}
    assert torch.equal(cutmix(images.clone(), box), transform.transform(images, params))


def test_a_whole_share_changes_nothing_and_none_is_the_partner() -> None:
    images, _, probs = batch()
    for mixing in (Mixing(1.0), Mixing(1.0, (2, 3, 2, 3))):
        mixed, targets = mix(images.clone(), probs, mixing)
        assert torch.equal(mixed, images)
        assert torch.equal(targets, probs)
    for mixing in (Mixing(0.0), Mixing(0.0, (0, 0, *SIZE))):
        mixed, targets = mix(images.clone(), probs, mixing)
        assert torch.equal(mixed, images.roll(1, 0))
        assert torch.equal(targets, probs.roll(1, 0))


def test_probabilities_stay_probabilities() -> None:
    images, _, probs = batch()
    for mixing in draw(Augment(mix="random"), 50, SIZE):
        assert mixing is not None
        _, targets = mix(images.clone(), probs, mixing)
        torch.testing.assert_close(targets.sum(1), torch.ones(5))
        assert targets.min() >= 0


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_follow_the_beta_distribution(alpha: float) -> None:
    shares = np.array([m.share for m in draw(Augment(mix="mixup", mixup_alpha=alpha)) if m and m.box is None])
    assert len(shares) == 4000
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha), whose mean is 1/2
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
    # The variance of a bounded variable's square is at most 1/16 about the mean.
    assert abs(((shares - 0.5) ** 2).mean() - variance) < 5 * np.sqrt(1 / 16 / 4000)


def test_cutmix_share_is_the_area_outside_the_box() -> None:
    drawn = draw(Augment(mix="cutmix"))
    assert all(m and m.box for m in drawn)
    boxes = np.array([m.box for m in drawn if m])
    shares = np.array([m.share for m in drawn if m])
    top, left, bottom, right = boxes.T
    np.testing.assert_allclose(shares, 1 - (bottom - top) * (right - left) / 1024)
    assert boxes.min() >= 0
    assert boxes.max() <= 32
    # Both ends are reached, and boxes are squares but for what is cut off at the edges.
    assert (top == 0).any()
    assert (right == 32).any()
    inner = (top > 0) & (left > 0) & (bottom < 32) & (right < 32)
    np.testing.assert_array_equal((bottom - top)[inner], (right - left)[inner])


@pytest.mark.parametrize(("kind", "boxed"), [("mixup", 0.0), ("cutmix", 1.0), ("random", 0.5)])
def test_kinds_and_the_share_of_mixed_batches(kind: Literal["mixup", "cutmix", "random"], boxed: float) -> None:
    drawn = [m for m in draw(Augment(mix=kind, mix_share=0.25)) if m]
    assert abs(len(drawn) - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)
    share = np.mean([m.box is not None for m in drawn])
    assert share == boxed if boxed in {0, 1} else abs(share - boxed) < 5 * 0.5 / np.sqrt(len(drawn))


def test_no_mixing() -> None:
    assert draw(Augment()) == [None] * 4000
    assert draw(Augment(mix="random", mix_share=0.0)) == [None] * 4000
