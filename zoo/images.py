"""From stored pixels to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normalize"]


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Turn pixels into a network's input, on the device they are on.

    Args:
        images: uint8 `[N, H, W, 3]`, 0..255.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        dtype: type of the result.

    Returns:
        `(images / 255 - mean) / std`, `[N, 3, H, W]` in channels-last memory format.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    # An NHWC tensor seen as NCHW is channels-last already.
    return (images * scale - shift).to(dtype).permute(0, 3, 1, 2)
