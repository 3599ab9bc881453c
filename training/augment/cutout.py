"""Cutout: a square of each image is hidden (T. DeVries and G. Taylor, arXiv:1708.04552)."""

import torch
from torch import Tensor

__all__ = ["cutout_mask", "draw_centres"]


def draw_centres(images: int, size: tuple[int, int], generator: torch.Generator, inside: int = 0) -> Tensor:
    """Draw the centre of each image's square, all places alike.

    Args:
        images: their number N.
        size: (H, W) in pixels.
        generator: on the CPU.
        inside: side of squares that must lie within the image, up to min(H, W); 0 if only their centres must.

    Returns:
        int64 `[N, 2]`, (row, column).
    """
    margin = max(inside - 1, 0)  # places that a square along a side has less than a pixel has
    draws = [torch.randint(length - margin, (images,), generator=generator) + inside // 2 for length in size]
    return torch.stack(draws, 1)


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
