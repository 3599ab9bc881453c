"""Whitening filters against numpy's covariances and eigenvectors of patches cut one by one."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

from training.whitening import whiten_first_layer, whitening_filters

EPS = 0.02


def smooth_images(images: int = 6, channels: int = 3, size: int = 9) -> torch.Tensor:
    """Images whose neighbouring pixels and channels are alike, as in photographs; the mean is not zero."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images, channels, size + 2, size + 2, generator=generator)
    mixed = noise + 0.8 * noise.mean(1, keepdim=True) * channels**0.5
    return functional.avg_pool2d(mixed, 3, stride=1) * 3 + 0.3


def patches_of(images: torch.Tensor, kernel: int) -> npt.NDArray[np.float64]:
    """Every patch as a row: channel, then row, then column."""
    pixels = images.double().numpy()
    height, width = pixels.shape[2:]
    rows = [
        pixels[n, :, top : top + kernel, left : left + kernel].ravel()
        for n in range(len(pixels))
        for top in range(height - kernel + 1)
        for left in range(width - kernel + 1)
    ]
    return np.array(rows)


@pytest.mark.parametrize(("kernel", "channels"), [(2, 3), (3, 3), (2, 1)])
def test_filters_are_scaled_principal_directions(kernel: int, channels: int) -> None:
    images = smooth_images(channels=channels)
    patches = patches_of(images, kernel)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = whitening_filters(images, kernel, EPS)
    width = channels * kernel**2
    assert filters.shape == (width, channels, kernel, kernel)
    expected = directions.T / np.sqrt(variances + EPS)[:, None]
    got = filters.double().numpy().reshape(width, width)
    signs = np.sign((got * expected).sum(1, keepdims=True))  # an eigenvector's sign is anyone's choice
    np.testing.assert_allclose(got * signs, expected, atol=2e-3 * np.abs(expected).max())


def test_whitened_patches_are_uncorrelated() -> None:
    images = smooth_images()
    patches = patches_of(images, 2)
    variances = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert variances.max() / variances.min() > 20  # they were not so before
    outputs = functional.conv2d(images, whitening_filters(images, 2, EPS)).double()
    flat = outputs.permute(0, 2, 3, 1).reshape(-1, 12).numpy()
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.diag(variances / (variances + EPS)), atol=1e-4)


def test_layer_gets_the_filters_and_then_their_negatives() -> None:
    images = smooth_images()
    conv = nn.Conv2d(3, 24, 2)
    conv.weight.requires_grad_(False)
    bias = conv.bias.detach().clone() if conv.bias is not None else None
    whiten_first_layer(conv, images, EPS)
    filters = whitening_filters(images, 2, EPS)
    assert torch.equal(conv.weight[:12], filters)
    assert torch.equal(conv.weight[12:], -filters)
    assert conv.bias is not None
    assert bias is not None
    assert torch.equal(conv.bias, bias)


@pytest.mark.parametrize(
    ("conv", "shapes"),
    [
        (nn.Conv2d(3, 20, 2), r"\[24, 3, 2, 2\], the layer has \[20, 3, 2, 2\]"),
        (nn.Conv2d(3, 12, 2), r"\[24, 3, 2, 2\], the layer has \[12, 3, 2, 2\]"),
        (nn.Conv2d(1, 24, 2), r"\[24, 3, 2, 2\], the layer has \[24, 1, 2, 2\]"),
        (nn.Conv2d(3, 24, (2, 3)), r"\[24, 3, 2, 2\], the layer has \[24, 3, 2, 3\]"),
    ],
)
def test_layer_of_another_shape_is_refused_and_left_alone(conv: nn.Conv2d, shapes: str) -> None:
    before = conv.weight.detach().clone()
    with pytest.raises(ValueError, match=f"weights of shape {shapes}"):
        whiten_first_layer(conv, smooth_images(), EPS)
    assert torch.equal(conv.weight, before)
