"""Mixup (H. Zhang et al., arXiv:1710.09412) and CutMix (S. Yun et al., arXiv:1905.04899).

Each image is mixed with the one before it in its batch, the first with the last: batches are shuffled, so that
this is as good as drawing the partners.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from training.recipe import Augment

__all__ = ["Mixing", "cutmix", "cutmix_box", "draw_mixings", "mix", "mixup"]


@dataclass(frozen=True)
class Mixing:
    """How one batch is mixed.

    Attributes:
        share: what each image keeps of itself, in [0, 1]; of its class as well.
        box: in CutMix (top, left, bottom, right) of what comes from the partner, the last two exclusive; none in mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def cutmix_box(share: float, centre: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of CutMix: of the image's shape, cut off at its edges.

    Args:
        share: of the image's area that stays, before anything is cut off, in [0, 1].
        centre: (row, column) of the box.
        size: (H, W) of the image.

    Returns:
        (top, left, bottom, right), the last two exclusive.
    """
    half = [int(0.5 * math.sqrt(1 - share) * length) for length in size]
    top, left = (max(at - reach, 0) for at, reach in zip(centre, half, strict=True))
    bottom, right = (min(at + reach, end) for at, reach, end in zip(centre, half, size, strict=True))
    return top, left, bottom, right


def draw_mixings(
    augment: Augment, batches: int, size: tuple[int, int], generator: np.random.Generator
) -> list[Mixing | None]:
    """Draw how to mix each batch of an epoch.

    Args:
        augment: which mixing, how strong, and in which share of the batches.
        batches: number of batches.
        size: (H, W) of the images.
        generator: of the draws.

    Returns:
        One for each batch; none for a batch that stays as it is.
    """
    # Every number is drawn, whatever is used of them: a setting does not change what the others draw.
    mixed = generator.random(batches) < augment.mix_share
    boxed = generator.random(batches) < {"none": 0.0, "mixup": 0.0, "random": 0.5, "cutmix": 1.0}[augment.mix]
    centres = generator.integers(0, size, (batches, 2)).tolist()
    blended = generator.beta(augment.mixup_alpha, augment.mixup_alpha, batches).tolist()
    kept = generator.beta(augment.cutmix_alpha, augment.cutmix_alpha, batches).tolist()
    drawn: list[Mixing | None] = []
    for batch in range(batches):
        if augment.mix == "none" or not mixed[batch]:
            drawn.append(None)
        elif boxed[batch]:
            down, across = centres[batch]
            top, left, bottom, right = box = cutmix_box(kept[batch], (down, across), size)
            drawn.append(Mixing(1 - (bottom - top) * (right - left) / (size[0] * size[1]), box))
        else:
            drawn.append(Mixing(blended[batch]))
    return drawn


def mixup(values: Tensor, share: float) -> Tensor:
    """Blend each row with the one before it: `share * x[i] + (1 - share) * x[i-1]`, of images or of probabilities.

    Args:
        values: float `[B, ...]`.
        share: in [0, 1].

    Returns:
        A new tensor of the same shape.
    """
    return values.roll(1, 0).mul_(1 - share).add_(values.mul(share))


def cutmix(images: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Replace a box of each image by that of the image before it, in place.

    Args:
        images: `[B, C, H, W]`.
        box: (top, left, bottom, right), the last two exclusive.

    Returns:
        `images`.
    """
    top, left, bottom, right = box
    inside = images[..., top:bottom, left:right]
    inside.copy_(inside.roll(1, 0))
    return images


def mix(images: Tensor, probs: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mix a batch.

    Args:
        images: float `[B, C, H, W]`; may be changed in place.
        probs: float `[B, K]`, class probabilities.
        mixing: how.

    Returns:
        The same for the mixed batch.
    """
    mixed = mixup(images, mixing.share) if mixing.box is None else cutmix(images, mixing.box)
    return mixed, mixup(probs, mixing.share)
