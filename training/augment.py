"""Batched augmentation of a split that lies on the device as uint8."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from training.recipe import Augment
from zoo.data import Split
from zoo.images import normalize

__all__ = ["Batches", "crop", "flip_mask"]


def crop(padded: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of each image.

    Args:
        padded: `[N, H + 2p, W + 2p, C]`.
        offsets: integer `[N, 2]`, top-left corner (row, column) of each window, each in `0 .. 2p`.
        size: (H, W) of the windows.

    Returns:
        `[N, H, W, C]`.
    """
    windows = padded.unfold(1, size[0], 1).unfold(2, size[1], 1)  # [N, 2p+1, 2p+1, C, H, W], a view
    rows = torch.arange(len(padded), device=padded.device)
    return windows[rows, offsets[:, 0], offsets[:, 1]].permute(0, 2, 3, 1)


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
    mask = torch.rand(images, generator=_generator(seed, 1, drawn_in)) < 0.5  # noqa: PLR2004
    return mask ^ (kind == "alternating" and epoch % 2 == 1)


class Batches:
    """Shuffled, augmented, normalised batches of a split.

    The draws depend on (seed, epoch) alone and are made on the CPU: any epoch can be had again, from any batch on,
    and every device sees the same images.

    Args:
        split: training images; copied once to `device`, as uint8 with their padding.
        augment: what to do to them.
        batch_size: images a batch.
        seed: of the run.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        device: where the split is kept and augmented.
    """

    def __init__(
        self,
        split: Split,
        augment: Augment,
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        pad = augment.crop_padding
        padded = np.pad(split.images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
        self._images = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(split.labels).to(device)
        self._size = (split.images.shape[1], split.images.shape[2])
        self._augment, self._batch_size, self._seed = augment, batch_size, seed
        self._mean, self._std = mean, std

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self._labels) // self._batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float32 `[B, 3, H, W]`, labels int64 `[B]`) of an epoch, from batch `start` on."""
        count, device = len(self._labels), self._labels.device
        generator = _generator(self._seed, 0, epoch)
        order = torch.randperm(count, generator=generator).to(device)
        offsets = torch.randint(0, 2 * self._augment.crop_padding + 1, (count, 2), generator=generator).to(device)
        flips = flip_mask(self._augment.flip, count, epoch, self._seed).to(device)
        for batch in range(start, len(self)):
            rows = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            images = crop(self._images[rows], offsets[rows], self._size)
            images = torch.where(flips[rows].view(-1, 1, 1, 1), images.flip(2), images)
            yield normalize(images, self._mean, self._std), self._labels[rows]


def _generator(seed: int, stream: int, epoch: int) -> torch.Generator:
    """Return a CPU generator for one stream of draws in one epoch of one run."""
    state = np.random.SeedSequence([seed, stream, epoch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
