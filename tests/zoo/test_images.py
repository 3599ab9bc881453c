"""Pixels to a network's input, against the formula in double precision."""

import numpy as np
import pytest
import torch

from zoo.images import normalize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def test_every_pixel_value_in_every_channel() -> None:
    pixels = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], -1).astype(np.uint8).reshape(2, 8, 16, 3)
    out = normalize(torch.from_numpy(pixels), MEAN, STD)
    wanted = ((pixels.astype(np.float64) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert out.dtype == torch.float32
    assert out.shape == (2, 3, 8, 16)
    np.testing.assert_allclose(out.numpy(), wanted, atol=2e-6)


def test_the_mean_and_one_deviation_above_it() -> None:
    out = normalize(
        torch.tensor([51, 102, 255], dtype=torch.uint8).reshape(1, 1, 1, 3), (0.2, 0.2, 0.5), (1, 0.2, 0.25)
    )
    assert out.flatten().tolist() == pytest.approx([0, 1, 2], abs=1e-6)


def test_the_result_is_channels_last_without_a_copy_by_convolutions() -> None:
    out = normalize(torch.zeros(2, 8, 16, 3, dtype=torch.uint8), MEAN, STD)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.is_contiguous()


def test_another_type() -> None:
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    out = normalize(pixels, MEAN, STD, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, normalize(pixels, MEAN, STD).bfloat16())


def test_mean_and_std_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="zip"):
        normalize(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), MEAN[:2], STD)
