"""Which operations an image goes through: AutoAugment and RandAugment, as draws.

Same operations, ranges and probabilities as `AutoAugment(AutoAugmentPolicy.CIFAR10)` and `RandAugment()` in
`torchvision.transforms.v2`; here they are drawn for all images of an epoch at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Op", "Policy", "autoaugment", "randaugment"]

_SIGNED = frozenset(
    ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
)
_RANDAUGMENT = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness"),
    *("Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
_RANDAUGMENT_LEVELS = 31
_AUTOAUGMENT_LEVELS = 10
# The 25 sub-policies found on CIFAR-10 (arXiv:1805.09501, appendix): (operation, probability, level 0..9), twice.
_AUTOAUGMENT = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


class Op(NamedTuple):
    """An operation by torchvision's name, and its magnitude in torchvision's units, with its sign; 0 if it has none."""

    name: str
    magnitude: float


@dataclass(frozen=True, eq=False)
class Policy:
    """What can happen to an image: S stages, each with one of K choices that is applied or left out.

    Attributes:
        ops: the distinct operations; the first leaves an image as it is.
        table: int64 `[K, S, 2]`, the operation of each choice at each stage, with positive and negative magnitude.
        probability: float32 `[K, S]`, that it is applied.
        joint: whether one choice holds for all stages of an image (a sub-policy), or each stage has its own.
    """

    ops: tuple[Op, ...]
    table: Tensor
    probability: Tensor
    joint: bool

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """Draw for N images what happens to them.

        Args:
            images: N.
            generator: of the draws, on the CPU.

        Returns:
            int64 `[N, S]`, positions in `ops`, on the CPU.
        """
        choices, stages = self.probability.shape
        drawn = torch.randint(choices, (images, 1 if self.joint else stages), generator=generator)
        applied = torch.rand(images, stages, generator=generator)
        negative = torch.rand(images, stages, generator=generator) <= 0.5  # noqa: PLR2004
        stage = torch.arange(stages)
        ops = self.table[drawn, stage, negative.long()]
        return torch.where(applied <= self.probability[drawn, stage], ops, 0)


def autoaugment(size: tuple[int, int]) -> Policy:
    """Return the AutoAugment policy for CIFAR-10 (E. Cubuk et al., arXiv:1805.09501), for images of (H, W) pixels."""
    choices = [
        [(name, probability, _magnitude(name, level, _AUTOAUGMENT_LEVELS, size)) for name, probability, level in pair]
        for pair in _AUTOAUGMENT
    ]
    return _policy(choices, joint=True)


def randaugment(ops: int, magnitude: int, size: tuple[int, int]) -> Policy:
    """Return RandAugment (E. Cubuk et al., arXiv:1909.13719).

    Args:
        ops: operations an image, the paper's N, above 0.
        magnitude: their level, the paper's M, in 0..30.
        size: (H, W) of the images in pixels.
    """
    choices = [[(name, 1.0, _magnitude(name, magnitude, _RANDAUGMENT_LEVELS, size))] * ops for name in _RANDAUGMENT]
    return _policy(choices, joint=False)


def _magnitude(name: str, level: int, levels: int, size: tuple[int, int]) -> float:
    """Return what torchvision takes a level in `0 .. levels-1` for; 0 for an operation that has no magnitude."""
    if name == "Posterize":  # bits that are kept
        return float((8 - torch.arange(levels) / ((levels - 1) / 4)).round()[level])
    height, width = size
    ends = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150 / 331 * width),  # pixels
        "TranslateY": (0.0, 150 / 331 * height),
        "Rotate": (0.0, 30.0),  # degrees
        "Brightness": (0.0, 0.9),
        "Color": (0.0, 0.9),
        "Contrast": (0.0, 0.9),
        "Sharpness": (0.0, 0.9),
        "Solarize": (1.0, 0.0),  # of the largest value
    }
    return float(torch.linspace(*ends[name], levels)[level]) if name in ends else 0.0


def _policy(choices: Sequence[Sequence[tuple[str, float, float]]], *, joint: bool) -> Policy:
    """Number the distinct operations of `[K][S]` choices (operation, probability, magnitude without its sign)."""
    ops = {Op("Identity", 0.0): 0}
    table = [
        [
            [ops.setdefault(Op(name, m), len(ops)) for m in (magnitude, -magnitude if name in _SIGNED else magnitude)]
            for name, _, magnitude in choice
        ]
        for choice in choices
    ]
    probability = [[p for _, p, _ in choice] for choice in choices]
    return Policy(tuple(ops), torch.tensor(table), torch.tensor(probability), joint)
