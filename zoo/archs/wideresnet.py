"""WideResNet: pre-activation residual networks that are shallow and wide.

S. Zagoruyko, N. Komodakis, "Wide Residual Networks" (arXiv:1605.07146), table 1 and section 2; code:
szagoruyko/wide-residual-networks at 39a0e44, `pytorch/resnet.py`, and at 730d723, `models/wide-resnet.lua` (dropout).
Optionally with ShakeDrop (arXiv:1802.02375) or stochastic depth (arXiv:1603.09382).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.archs.branch_drop import Gate, branch_drops
from zoo.archs.conv import same_conv

__all__ = ["VARIANTS", "WideBlock", "WideResNet"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "wrn16-2": {"depth": 16, "width": 2},
    "wrn16-4": {"depth": 16, "width": 4},
    "wrn28-2": {"depth": 28, "width": 2},
    "wrn28-10": {"depth": 28, "width": 10},
    "wrn40-2": {"depth": 40, "width": 2},
    "wrn40-4": {"depth": 40, "width": 4},
    "wrn40-10": {"depth": 40, "width": 10},
}
"""Variant name -> arguments of `WideResNet`."""


class WideBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, dropout, 3x3, and a shortcut.

    The shortcut is the input itself, or, where the width or the size changes, a 1x1 convolution of the activated input.

    Args:
        width_in: channels of the input.
        width_out: channels of the output.
        stride: of the first convolution and of the shortcut.
        dropout: probability of zeroing an activation before the second convolution.
        drop: what the branch's output goes through before it is added, one of `branch_drops`.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, H / stride, W / stride]`.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, dropout: float, drop: nn.Module) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(width_in), nn.ReLU())
        self.branch = nn.Sequential(
            same_conv(width_in, width_out, 3, stride),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            nn.Dropout(dropout),
            same_conv(width_out, width_out, 3),
        )
        self.drop = drop
        changes = width_in != width_out or stride > 1
        self.projection = same_conv(width_in, width_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        shortcut = x if self.projection is None else self.projection(active)
        out: Tensor = self.drop(self.branch(active)) + shortcut
        return out


class WideResNet(nn.Module):
    """3x3 convolution to 16 channels, three groups of `WideBlock`s, BN, ReLU, global average pooling, a linear head.

    The groups have 16, 32 and 64 times `width` channels; the second and third begin with stride 2.

    Args:
        classes: number of classes C.
        depth: 6n + 4, where n >= 1 is the number of blocks of a group.
        width: the widening factor, at least 1.
        dropout: probability of zeroing an activation between a block's convolutions (the paper takes 0.3), in [0, 1].
        shakedrop: ShakeDrop's drop probability at the last block, growing linearly from the first; 0 goes without.
        shakedrop_gate: draw ShakeDrop's gates for each `batch`, as in the paper, or for each `sample`.
        stochastic_depth: drop probability of stochastic depth at the last block, likewise; not with ShakeDrop.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised, H and W divisible by 4 -> logits `[N, C]`.

    Raises:
        ValueError: if `depth`, `width`, `dropout` or a drop probability is out of range, or an option is unknown.
    """

    def __init__(
        self,
        classes: int = 10,
        depth: int = 28,
        width: int = 10,
        *,
        dropout: float = 0.0,
        shakedrop: float = 0.0,
        shakedrop_gate: Gate = "batch",
        stochastic_depth: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        group = (depth - 4) // 6
        outs = [base * width for base in (16, 32, 64) for _ in range(group)]
        ins = [16, *outs[:-1]]
        strides = [2 if block in (group, 2 * group) else 1 for block in range(3 * group)]
        drops = branch_drops(3 * group, shakedrop=shakedrop, stochastic_depth=stochastic_depth, gate=shakedrop_gate)

        self.stem = same_conv(in_channels, 16, 3)
        self.blocks = nn.Sequential(
            *(
                WideBlock(width_in, width_out, stride, dropout, drop)
                for width_in, width_out, stride, drop in zip(ins, outs, strides, drops, strict=True)
            )
        )
        self.activate = nn.Sequential(nn.BatchNorm2d(outs[-1]), nn.ReLU())
        self.head = nn.Linear(outs[-1], classes)
        nn.init.zeros_(self.head.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activate(self.blocks(self.stem(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
