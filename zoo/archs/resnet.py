"""ResNet: the residual networks for 32x32 images, of 16, 32 and 64 channels.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2. The
paper's CIFAR networks have parameter-free shortcuts (option A); the plain names project where the width changes
(option B).
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VARIANTS", "ResBlock", "ResNet", "SubsampledShortcut"]

_DEPTHS = (20, 32, 44, 56, 110)

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{f"resnet{depth}": {"depth": depth} for depth in _DEPTHS},
    **{f"resnet{depth}-a": {"depth": depth, "projection": False} for depth in _DEPTHS},
}
"""Variant name -> arguments of `ResNet`."""

_WIDTHS = (16, 32, 64)


def _conv(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False)


class SubsampledShortcut(nn.Module):
    """Option A: every `stride`-th pixel, then zeros for the channels that the input lacks.

    Args:
        new_channels: how many channels of zeros to append.
        stride: of the subsampling.

    Shape: `[N, C, H, W]` -> `[N, C + new_channels, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class ResBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN, plus the shortcut, then ReLU.

    Args:
        width_in: channels of the input.
        width_out: channels of the output, at least as many.
        stride: of the first convolution and of the shortcut.
        projection: where the shape changes, a 1x1 convolution and BN (option B) rather than `SubsampledShortcut`.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, *, projection: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(width_in, width_out, 3, stride),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            _conv(width_out, width_out, 3),
            nn.BatchNorm2d(width_out),
        )
        self.shortcut: nn.Module
        if width_in == width_out and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = nn.Sequential(_conv(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))
        else:
            self.shortcut = SubsampledShortcut(width_out - width_in, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """3x3 convolution, BN, ReLU, three groups of `ResBlock`s, global average pooling, a linear head.

    The groups have 16, 32 and 64 channels; the second and third begin with stride 2.

    Args:
        classes: number of classes C.
        depth: 6n + 2, where n >= 1 is the number of blocks of a group.
        projection: project the shortcut where the width changes (option B) rather than pad it with zeros (option A).
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised -> logits `[N, C]`.

    Raises:
        ValueError: if `depth` is not 6n + 2.
    """

    def __init__(self, classes: int = 10, depth: int = 20, *, projection: bool = True, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        group = (depth - 2) // 6
        outs = [width for width in _WIDTHS for _ in range(group)]
        ins = [_WIDTHS[0], *outs[:-1]]
        strides = [2 if block in (group, 2 * group) else 1 for block in range(3 * group)]

        self.stem = nn.Sequential(_conv(in_channels, _WIDTHS[0], 3), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                ResBlock(width_in, width_out, stride, projection=projection)
                for width_in, width_out, stride in zip(ins, outs, strides, strict=True)
            )
        )
        self.head = nn.Linear(_WIDTHS[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits
