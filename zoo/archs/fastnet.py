"""FastNet: a whitening layer and three conv-pool-conv groups, about 2 M parameters; fastnet96, wider and deeper, 10 M.

The networks of the airbench CIFAR-10 speed runs: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
(arXiv:2404.00498), section 3; code: KellerJordan/cifar10-airbench at 096d14d, `airbench94_muon.py`, and at 2501e32,
`airbench96_faster.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["VARIANTS", "ConvGroup", "FastNet"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fastnet": {"widths": (64, 256, 256)},
    "fastnet96": {"widths": (128, 384, 512), "depth": 3, "norm_momentum": 0.1},
}
"""Variant name -> arguments of `FastNet`."""


def _norm(width: int, momentum: float) -> nn.BatchNorm2d:
    """BatchNorm with the scale frozen at one and the epsilon of the source."""
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm


def _conv(width_in: int, width_out: int) -> nn.Conv2d:
    """3x3 convolution whose first `width_in` filters start as the identity (section 3.3)."""
    conv = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:width_in])
    return conv


class ConvGroup(nn.Module):
    """conv, 2x2 max pooling, BN, GELU, and once or twice more conv, BN, GELU.

    If twice, what went into them is added before the last GELU.

    Args:
        width_in: input channels.
        width_out: output channels.
        depth: convolutions, 2 or 3.
        norm_momentum: weight of a batch in BatchNorm's running statistics.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, H // 2, W // 2]`.
    """

    def __init__(self, width_in: int, width_out: int, depth: int = 2, norm_momentum: float = 0.4) -> None:
        super().__init__()
        self.conv1 = _conv(width_in, width_out)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(width_out, norm_momentum)
        self.conv2 = _conv(width_out, width_out)
        self.norm2 = _norm(width_out, norm_momentum)
        self.activation = nn.GELU()
        self.deep = depth == 3
        if self.deep:
            self.conv3 = _conv(width_out, width_out)
            self.norm3 = _norm(width_out, norm_momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        out: Tensor = self.activation(self.norm2(self.conv2(x)))
        if self.deep:
            out = self.activation(self.norm3(self.conv3(out)) + x)
        return out


class FastNet(nn.Module):
    """Frozen 2x2 patch whitening (its bias is learned), three `ConvGroup`s, 3x3 max pooling, a linear head.

    The whitening filters start random: `training.whitening` sets them from training images.

    Args:
        classes: number of classes C.
        widths: output channels of the three groups.
        in_channels: image channels.
        depth: convolutions of a group, 2 or 3 (then with a shortcut).
        norm_momentum: weight of a batch in BatchNorm's running statistics.

    Raises:
        ValueError: another depth, a width below 1, or a momentum that is not in (0, 1].

    Shape: images `[N, in_channels, H, W]`, normalised, H and W from 25 to 48 -> logits `[N, C]`.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, int, int] = (64, 256, 256),
        in_channels: int = 3,
        depth: int = 2,
        norm_momentum: float = 0.4,
    ) -> None:
        super().__init__()
        if min(widths) < 1:
            raise ValueError(f"widths are {tuple(widths)}: each must be at least 1")
        if depth not in {2, 3}:
            raise ValueError(f"a group has 2 or 3 convolutions, not {depth}")
        if not 0 < norm_momentum <= 1:
            raise ValueError(f"norm_momentum is {norm_momentum}: it must be in (0, 1]")
        kernel = 2
        # Every principal direction of a patch and its negative: nothing is lost to the activation.
        whitened = 2 * in_channels * kernel**2
        self.whiten = nn.Conv2d(in_channels, whitened, kernel)
        self.whiten.weight.requires_grad_(False)
        self.activation = nn.GELU()
        ins = (whitened, *widths[:-1])
        self.groups = nn.Sequential(*(ConvGroup(a, b, depth, norm_momentum) for a, b in zip(ins, widths, strict=True)))
        self.pool = nn.MaxPool2d(3)
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.groups(self.activation(self.whiten(x)))).flatten(1)
        logits: Tensor = self.head(x) / x.shape[1]
        return logits
