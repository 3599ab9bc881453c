"""Padded images: windows of them, and what a network takes, against numpy and `zoo.images.normalize`."""

import numpy as np
import pytest
import torch

from tests.training.conftest import CPU, toy_split
from training.augment.pixels import PaddedImages
from training.recipe import Augment
from zoo.images import normalize

STATS = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


@pytest.mark.parametrize("fill", ["reflect", "zeros"])
def test_windows_of_the_padded_image(fill: str) -> None:
    split = toy_split(5, size=7)
    kept = PaddedImages(split.images, Augment(crop_padding=2, crop_fill=fill), *STATS, CPU)  # type: ignore[arg-type]
    mode = {"reflect": "reflect", "zeros": "constant"}[fill]
    padded = np.pad(split.images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)  # type: ignore[call-overload]
    rows, offsets = torch.tensor([4, 0, 4]), torch.tensor([[0, 4], [2, 2], [3, 1]])
    found = kept.crop(rows, offsets)
    assert (kept.size, kept.bytes_each, found.dtype) == ((7, 7), 3 * 11 * 11, torch.uint8)
    for image, row, (y, x) in zip(found, rows.tolist(), offsets.tolist(), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), padded[row, y : y + 7, x : x + 7])


def test_what_a_network_takes() -> None:
    split = toy_split(5, size=7)
    kept = PaddedImages(split.images, Augment(), *STATS, CPU)
    pixels = kept.crop(torch.arange(5), torch.zeros(5, 2, dtype=torch.int64))
    before = pixels.clone()
    torch.testing.assert_close(kept.normalize(pixels), normalize(torch.from_numpy(split.images), *STATS))
    assert torch.equal(pixels, before)
