"""Cutout against a loop over pixels."""

import numpy as np
import pytest
import torch

from training.augment.cutout import cutout_mask, draw_centres


@pytest.mark.parametrize(("side", "size"), [(16, (32, 32)), (1, (4, 4)), (3, (5, 8)), (4, (5, 8)), (40, (6, 7))])
def test_mask_is_the_square_around_its_centre(side: int, size: tuple[int, int]) -> None:
    centres = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))
    mask = cutout_mask(centres, side, size)
    assert mask.shape == (len(centres), 1, *size)
    for (row, column), got in zip(centres.tolist(), mask[:, 0].numpy(), strict=True):
        expected = np.zeros(size, bool)
        top, left = row - side // 2, column - side // 2
        expected[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
        np.testing.assert_array_equal(got, expected)


def test_mask_is_the_papers_for_even_sides() -> None:
    # uoguelph-mlrg/Cutout, util/cutout.py: rows clip(y - length // 2, 0, h) to clip(y + length // 2, 0, h).
    for row in range(32):
        mask = cutout_mask(torch.tensor([[row, 20]]), 16, (32, 32))[0, 0]
        assert mask.any(1).nonzero().flatten().tolist() == list(range(max(row - 8, 0), min(row + 8, 32)))


def test_expected_area_is_that_of_uniform_centres() -> None:
    centres = draw_centres(20_000, (32, 32), torch.Generator().manual_seed(0))
    # Along one side: centres 0..31 show min(c + 8, 32) - max(c - 8, 0) of their 16 pixels, 14 on the average.
    shown = [min(c + 8, 32) - max(c - 8, 0) for c in range(32)]
    assert np.mean(shown) == 14.0
    areas = cutout_mask(centres, 16, (32, 32)).sum((1, 2, 3)).double()
    deviation = np.sqrt((np.mean(np.square(shown)) ** 2 - 14**4) / len(centres))
    assert abs(areas.mean() - 14**2) < 5 * deviation


def test_centres_are_uniform_over_all_pixels() -> None:
    centres = draw_centres(35_000, (5, 7), torch.Generator().manual_seed(1))
    counts = torch.bincount(centres[:, 0] * 7 + centres[:, 1], minlength=35)
    assert len(counts) == 35
    # Chi-squared with 34 degrees of freedom exceeds 78 once in 30,000 times.
    assert ((counts - 1000).double() ** 2 / 1000).sum() < 78


@pytest.mark.parametrize(("side", "size"), [(12, (16, 20)), (3, (5, 7)), (1, (3, 4)), (5, (5, 6))])
def test_squares_that_must_lie_inside_are_whole_and_everywhere(side: int, size: tuple[int, int]) -> None:
    places = (size[0] - side + 1) * (size[1] - side + 1)
    centres = draw_centres(400 * places, size, torch.Generator().manual_seed(2), inside=side)
    mask = cutout_mask(centres, side, size)[:, 0]
    assert bool((mask.sum((1, 2)) == side**2).all()), "nothing is lost at the edges"
    corners = centres - side // 2
    counts = torch.bincount(corners[:, 0] * (size[1] - side + 1) + corners[:, 1], minlength=places)
    assert len(counts) == places
    # Chi-squared with k degrees of freedom, mean k and variance 2 k.
    assert ((counts - 400).double() ** 2 / 400).sum() < places - 1 + 5 * np.sqrt(2 * places)
