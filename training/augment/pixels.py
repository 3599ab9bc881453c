"""The images of a split on the device: padded bytes, windows cut out of them, and what a network takes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.augment.geometry import crop
from training.recipe import Augment
from zoo.data.split import Pixels

__all__ = ["PaddedImages"]


class PaddedImages:
    """Images that are kept on a device as uint8 `[N, 3, H + 2p, W + 2p]`, p being the padding that crops need.

    Args:
        images: uint8 `[N, H, W, 3]`; copied once.
        augment: how much padding, and what it holds.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        device: where they are kept.

    Attributes:
        size: (H, W) in pixels.
        bytes_each: of an image with its padding.
    """

    def __init__(
        self, images: Pixels, augment: Augment, mean: Sequence[float], std: Sequence[float], device: torch.device
    ) -> None:
        pad = augment.crop_padding
        mode = {"reflect": "reflect", "zeros": "constant"}[augment.crop_fill]
        padded = np.pad(images.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode=mode)  # type: ignore[call-overload]
        self._images = torch.from_numpy(padded).to(device)
        # The same arithmetic as `zoo.images.normalize`, with constants that lie on the device already.
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
        self._shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)
        self.size = (images.shape[1], images.shape[2])
        self.bytes_each = self._images[0].numel()

    def crop(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """Return uint8 `[B, 3, H, W]`: a window of each chosen image; see `training.augment.geometry.crop`."""
        return crop(self._images, rows, offsets, self.size)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return what a network takes of uint8 `[B, 3, H, W]`: float32, normalised."""
        return pixels.float().mul_(self._scale).sub_(self._shift)
