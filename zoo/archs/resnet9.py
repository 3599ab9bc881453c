"""ResNet-9: the small, wide residual network of the Myrtle page, by default with its bag of tricks.

D. Page, "How to Train Your ResNet", part 4 (architecture) and part 8 (bag of tricks), myrtle.ai, 2018 and 2019; code:
davidcpage/cifar10-fast at 7935ddb, `new_dawn.py` and `dawn_utils.py`. Part 8 also normalises over groups of 32 images
and freezes BatchNorm's scales: `training.norms` does both to any network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

__all__ = ["VARIANTS", "Activation", "ConvUnit", "ResNet9", "ResidualPair"]

Activation = Literal["relu", "celu"]
"""ReLU, or CELU (arXiv:1704.07483) with alpha 0.3, as in part 8."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "resnet9": {"activation": "celu", "pool_first": True, "whitening": True, "scale": 1 / 16},
}
"""Variant name -> arguments of `ResNet9`."""

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "celu": lambda: nn.CELU(0.3)}


class ConvUnit(nn.Module):
    """Convolution, BN, activation, and optionally 2x2 max pooling, last or right after the convolution.

    Pooled first, BN and activation have a quarter of the work, and the statistics are those of what is passed on.

    Args:
        width_in: channels of the input.
        width_out: channels of the output.
        activation: see `Activation`.
        kernel: side of the convolution's kernel, odd.
        pool: whether, and when, to pool: `none`, `first` or `last`.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, H, W]`, pooled `[N, width_out, H // 2, W // 2]`.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        activation: Activation,
        kernel: int = 3,
        pool: Literal["none", "first", "last"] = "none",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False)
        self.pool_first: nn.Module = nn.MaxPool2d(2) if pool == "first" else nn.Identity()
        self.norm = nn.BatchNorm2d(width_out)
        self.activation = _ACTIVATIONS[activation]()
        self.pool_last: nn.Module = nn.MaxPool2d(2) if pool == "last" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool_last(self.activation(self.norm(self.pool_first(self.conv(x)))))
        return out


class ResidualPair(nn.Module):
    """The input plus two `ConvUnit`s of it; nothing is rectified after the sum.

    Shape: `[N, width, H, W]` -> the same.
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(ConvUnit(width, width, activation), ConvUnit(width, width, activation))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class ResNet9(nn.Module):
    """A convolution, three pooled ones with a residual pair after the first and the last, max pooling, a scaled head.

    With `whitening`, a frozen 3x3 convolution precedes the first one, which then is 1x1. Its filters start random:
    `training.whitening` sets them from training images. Unlike the source's 27 filters they come with their negatives,
    which the 1x1 convolution can only use to learn twice as fast.

    Args:
        classes: number of classes C.
        widths: channels of the first convolution and of the three pooled ones.
        activation: see `Activation`.
        pool_first: pool before BN and activation, as in part 8, rather than after them, as in part 4.
        whitening: begin with a frozen whitening layer, named `whiten`.
        scale: of the logits; 1/8 in part 4 and 1/16 in part 8.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised, H and W at least 8 -> logits `[N, C]`.

    Raises:
        ValueError: if there are not four widths or the activation is unknown.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        activation: Activation = "relu",
        pool_first: bool = False,
        whitening: bool = False,
        scale: float = 0.125,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths must be four, got {list(widths)}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        self.scale = scale
        width_in, kernel = in_channels, 3
        self.whiten: nn.Conv2d | None = None
        if whitening:
            # Every principal direction of a 3x3 patch and its negative.
            width_in, kernel = 2 * in_channels * 3**2, 1
            self.whiten = nn.Conv2d(in_channels, width_in, 3, padding=1, bias=False)
            self.whiten.weight.requires_grad_(False)
        pool: Literal["first", "last"] = "first" if pool_first else "last"
        self.stem = ConvUnit(width_in, widths[0], activation, kernel)
        self.blocks = nn.Sequential(
            ConvUnit(widths[0], widths[1], activation, pool=pool),
            ResidualPair(widths[1], activation),
            ConvUnit(widths[1], widths[2], activation, pool=pool),
            ConvUnit(widths[2], widths[3], activation, pool=pool),
            ResidualPair(widths[3], activation),
        )
        self.head = nn.Linear(widths[3], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.whiten is not None:
            x = self.whiten(x)
        logits: Tensor = self.head(self.blocks(self.stem(x)).amax((2, 3))) * self.scale
        return logits
