"""Batches on the device are the images, in order."""

import numpy as np
import pytest
import torch

from tests.conftest import random_split
from tta.batches import device_batches


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_all_images_in_order(batch: int, sizes: list[int]) -> None:
    images = random_split(7, size=4).images
    parts = list(device_batches(images, batch, torch.device("cpu")))
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(torch.cat(parts).numpy(), images)


@pytest.mark.gpu
def test_copies_that_overlap_bring_the_same() -> None:
    images = random_split(4096, size=32).images
    device = torch.device("cuda")
    busy = torch.randn(2048, 2048, device=device)
    parts = []
    for part in device_batches(images, 100, device):
        busy = busy @ busy / 64  # work that the next copy overlaps
        parts.append(part.float().cpu())
    np.testing.assert_array_equal(torch.cat(parts).numpy(), images)
