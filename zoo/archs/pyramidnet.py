"""PyramidNet: a residual network whose blocks widen by the same amount each, from the first to the last.

D. Han, J. Kim, J. Kim, "Deep Pyramidal Residual Networks" (arXiv:1610.02915), sections 2 and 3; code:
dyhan0920/PyramidNet-PyTorch at 1e2b467, `PyramidNet.py`. Optionally with ShakeDrop (arXiv:1802.02375) or
stochastic depth (arXiv:1603.09382).
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.branch_drop import Gate, branch_drops
from zoo.archs.conv import same_conv

__all__ = ["VARIANTS", "PyramidBlock", "PyramidNet"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "pyramid272": {"depth": 272, "alpha": 200, "bottleneck": True},
    "pyramid110-a270": {"depth": 110, "alpha": 270},
    "pyramid110-a84": {"depth": 110, "alpha": 84},
    "pyramid110-a48": {"depth": 110, "alpha": 48},
}
"""Variant name -> arguments of `PyramidNet`."""

_STEM_WIDTH = 16
_EXPANSION = 4


def _basic_branch(width_in: int, width: int, stride: int) -> nn.Sequential:
    """BN, 3x3, BN, ReLU, 3x3, BN; from `width_in` to `width` channels."""
    return nn.Sequential(
        nn.BatchNorm2d(width_in),
        same_conv(width_in, width, 3, stride),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        same_conv(width, width, 3),
        nn.BatchNorm2d(width),
    )


def _bottleneck_branch(width_in: int, width: int, stride: int) -> nn.Sequential:
    """BN, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN; from `width_in` to `4 * width` channels."""
    return nn.Sequential(
        nn.BatchNorm2d(width_in),
        same_conv(width_in, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        same_conv(width, width, 3, stride),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        same_conv(width, width * _EXPANSION, 1),
        nn.BatchNorm2d(width * _EXPANSION),
    )


class PyramidBlock(nn.Module):
    """A residual block without a first ReLU and without parameters in its shortcut.

    The shortcut is averaged over 2x2 pixels when the branch is strided, and the channels it lacks are zeros.

    Args:
        width_in: channels of the input.
        width: channels of the branch's 3x3 convolutions; the output must not have fewer channels than the input.
        stride: 1 or 2.
        drop: what the branch's output goes through before it is added, one of `branch_drops`.
        bottleneck: whether the branch is a bottleneck, which puts out `4 * width` channels rather than `width`.

    Shape: `[N, width_in, H, W]` -> `[N, width or 4 * width, H / stride, W / stride]`.
    """

    def __init__(self, width_in: int, width: int, stride: int, drop: nn.Module, *, bottleneck: bool) -> None:
        super().__init__()
        branch = _bottleneck_branch if bottleneck else _basic_branch
        self.branch = branch(width_in, width, stride)
        self.drop = drop
        self.pool: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.new_channels = width * (_EXPANSION if bottleneck else 1) - width_in

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(self.pool(x), (0, 0, 0, 0, 0, self.new_channels))
        out: Tensor = self.drop(self.branch(x)) + shortcut
        return out


class PyramidNet(nn.Module):
    """3x3 convolution and BN, three groups of `PyramidBlock`s, BN, ReLU, global average pooling, a linear head.

    Block l of L has width `16 + alpha * l / L`, rounded; the second and third group begin with stride 2.

    Args:
        classes: number of classes C.
        depth: 6n + 2 with basic blocks or 9n + 2 with bottlenecks, where n >= 1 is the number of blocks of a group.
        alpha: how much wider the last block is than the 16 channels of the first convolution, not negative.
        bottleneck: use bottleneck blocks, which put out four times their width.
        shakedrop: ShakeDrop's drop probability at the last block, growing linearly from the first; 0 goes without.
        shakedrop_gate: draw ShakeDrop's gates for each `batch`, as in the paper, or for each `sample`.
        stochastic_depth: drop probability of stochastic depth at the last block, likewise; not with ShakeDrop.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised, H and W divisible by 4 -> logits `[N, C]`.

    Raises:
        ValueError: if `depth`, `alpha` or a drop probability is out of range, or an option is unknown.
    """

    def __init__(
        self,
        classes: int = 10,
        depth: int = 110,
        alpha: float = 48,
        *,
        bottleneck: bool = False,
        shakedrop: float = 0.0,
        shakedrop_gate: Gate = "batch",
        stochastic_depth: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        step = 9 if bottleneck else 6
        if depth < step + 2 or (depth - 2) % step:
            kind = "bottleneck" if bottleneck else "basic"
            raise ValueError(f"depth must be {step}n + 2 with n >= 1 for {kind} blocks, got {depth}")
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        group = (depth - 2) // step
        count = 3 * group
        expansion = _EXPANSION if bottleneck else 1
        # No bottleneck precedes the first block, so its input is the stem's 16 channels, not four times as many.
        widths = [round(_STEM_WIDTH + alpha * block / count) for block in range(1, count + 1)]
        ins = [_STEM_WIDTH, *(width * expansion for width in widths[:-1])]
        strides = [2 if block in (group, 2 * group) else 1 for block in range(count)]
        drops = branch_drops(count, shakedrop=shakedrop, stochastic_depth=stochastic_depth, gate=shakedrop_gate)

        self.stem = nn.Sequential(same_conv(in_channels, _STEM_WIDTH, 3), nn.BatchNorm2d(_STEM_WIDTH))
        self.blocks = nn.Sequential(
            *(
                PyramidBlock(width_in, width, stride, drop, bottleneck=bottleneck)
                for width_in, width, stride, drop in zip(ins, widths, strides, drops, strict=True)
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1] * expansion)
        self.activation = nn.ReLU()
        self.head = nn.Linear(widths[-1] * expansion, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.blocks(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
