"""Random crops and mirror images."""

import torch
from torch import Tensor

from training.augment.streams import Stream, torch_generator

__all__ = ["crop", "flip", "flip_mask"]


def crop(padded: Tensor, rows: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of each chosen image.

    Args:
        padded: `[N, C, H + 2p, W + 2p]`.
        rows: integer `[B]`, the images chosen, each in `0 .. N-1`.
        offsets: integer `[B, 2]`, top-left corner (row, column) of each window, each in `0 .. 2p`.
        size: (H, W) of the windows.

    Returns:
        `[B, C, H, W]`, contiguous.
    """
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # [N, C, 2p+1, 2p+1, H, W], a view
    return windows.movedim(1, 3)[rows, offsets[:, 0], offsets[:, 1]]


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror some of the images `[B, C, H, W]`: left to right, those where the bool `mask` `[B]` is set."""
    return torch.where(mask.view(-1, 1, 1, 1), images.flip(3), images)


def flip_mask(kind: str, images: int, epoch: int, seed: int) -> Tensor:
    """Say which images to mirror in an epoch.

    Args:
        kind: `none`, `random` or `alternating`, see `training.recipe.Augment`.
        images: number of images N of the split.
        epoch: counted from 0.
        seed: of the run.

    Returns:
        bool `[N]`, on the CPU.
    """
    if kind == "none":
        return torch.zeros(images, dtype=torch.bool)
    drawn_in = 0 if kind == "alternating" else epoch
    mask = torch.rand(images, generator=torch_generator(seed, Stream.FLIP, drawn_in)) < 0.5  # noqa: PLR2004
    return mask ^ (kind == "alternating" and epoch % 2 == 1)
