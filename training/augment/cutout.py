"""Cutout: a square of each image is hidden (T. DeVries and G. Taylor, arXiv:1708.04552)."""

import torch
from torch import Tensor

__all__ = ["cutout_mask", "draw_centres"]


def draw_centres(images: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a pixel (row, column) of each image, all of them alike: int64 `[N, 2]` for N images of (H, W) pixels."""
    down = torch.randint(size[0], (images,), generator=generator)
    across = torch.randint(size[1], (images,), generator=generator)
    return torch.stack((down, across), 1)


def cutout_mask(centres: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Mark a square of each image.

    The square covers `side` rows from `side // 2` above its centre on, likewise its columns. What lies outside the
    image is lost: on average less than `side ** 2` pixels are hidden, as the paper wants it (section 3.2).

    Args:
        centres: integer `[B, 2]`, (row, column).
        side: in pixels, above 0.
        size: (H, W).

    Returns:
        bool `[B, 1, H, W]`, set inside the square, for `masked_fill_`.
    """
    spans = []
    for length, centre in zip(size, centres.unbind(1), strict=True):
        steps = torch.arange(length, device=centres.device) - (centre.unsqueeze(1) - side // 2)  # [B, length]
        spans.append((steps >= 0) & (steps < side))
    return (spans[0].unsqueeze(2) & spans[1].unsqueeze(1)).unsqueeze(1)
