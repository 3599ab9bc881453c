"""Shake-Shake: residual networks of two branches, mixed at random, and differently forward and backward.

X. Gastaldi, "Shake-Shake regularization" (arXiv:1705.07485), section 2; code: xgastaldi/shake-shake at 261ae9e,
`models/shakeshake.lua` and `models/shakeshakeblock.lua`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.conv import same_conv
from zoo.archs.two_way_scale import two_way_scale

__all__ = ["VARIANTS", "ShakeShake", "ShakeShakeBlock", "ShakeShakeNet", "ShiftedShortcut", "shake_shake"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "shakeshake26-2x32d": {"depth": 26, "width": 32},
    "shakeshake26-2x64d": {"depth": 26, "width": 64},
    "shakeshake26-2x96d": {"depth": 26, "width": 96},
}
"""Variant name -> arguments of `ShakeShakeNet`; 2x32d: two branches, of 32 channels in the first group."""

_STEM_WIDTH = 16


def shake_shake(first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Mix two branches by `alpha : 1 - alpha`, and their gradients by `beta : 1 - beta`.

    Args:
        first: a branch's output, any shape.
        second: the other's, of the same shape.
        alpha: the first branch's share forward, in [0, 1]; broadcasts against the branches, like `beta`.
        beta: the first branch's share of the gradient, in [0, 1].

    Returns:
        `alpha * first + (1 - alpha) * second`, of the branches' shape and dtype.
    """
    return two_way_scale(first, alpha, beta) + two_way_scale(second, 1 - alpha, 1 - beta)


class ShakeShake(nn.Module):
    """`shake_shake` with fresh draws for each image in training (Shake-Shake-Image); the mean in evaluation.

    In training alpha ~ U[0, 1] and beta ~ U[0, 1], independent of each other.

    Shape: two tensors `[N, ...]` -> `[N, ...]`.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if not self.training:
            return (first + second) * 0.5
        # Drawn in float32 whatever the precision of the branches: in bfloat16 uniform draws have steps of 1/256.
        per_image = (len(first), *(1 for _ in first.shape[1:]))
        alpha = torch.rand(per_image, device=first.device)
        beta = torch.rand(per_image, device=first.device)
        return shake_shake(first, second, alpha, beta)


class ShiftedShortcut(nn.Module):
    """Two strided 1x1 convolutions to half of the channels each, side by side, then BN.

    The second sees the image one pixel further right and down (zeros come in), hence other pixels under stride 2.

    Args:
        width_in: channels of the input.
        width_out: channels of the output, even.
        stride: of both convolutions.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv = same_conv(width_in, width_out // 2, 1, stride)
        self.conv_shifted = same_conv(width_in, width_out // 2, 1, stride)
        self.norm = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        shifted = F.pad(x, (1, 0, 1, 0))[:, :, :-1, :-1]
        out: Tensor = self.norm(torch.cat((self.conv(x), self.conv_shifted(shifted)), dim=1))
        return out


class ShakeShakeBlock(nn.Module):
    """Twice ReLU, 3x3, BN, ReLU, 3x3, BN, mixed by `ShakeShake`, plus a shortcut.

    The shortcut is the input itself or, where width or size change, a `ShiftedShortcut` of the rectified input.

    Args:
        width_in: channels of the input.
        width_out: channels of the output; even, if they are not `width_in`.
        stride: of the first convolutions and of the shortcut.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.first = self._branch(width_in, width_out, stride)
        self.second = self._branch(width_in, width_out, stride)
        self.shake = ShakeShake()
        changes = width_in != width_out or stride > 1
        self.shortcut = ShiftedShortcut(width_in, width_out, stride) if changes else None

    @staticmethod
    def _branch(width_in: int, width_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            same_conv(width_in, width_out, 3, stride),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
            same_conv(width_out, width_out, 3),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.shake(self.first(active), self.second(active)) + shortcut
        return out


class ShakeShakeNet(nn.Module):
    """3x3 convolution to 16 channels, BN, three groups of `ShakeShakeBlock`s, ReLU, global average pooling, a head.

    The groups have 1, 2 and 4 times `width` channels; the second and third begin with stride 2.

    Args:
        classes: number of classes C.
        depth: 6n + 2, where n >= 1 is the number of blocks of a group.
        width: channels of the first group, even.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised -> logits `[N, C]`.

    Raises:
        ValueError: if `depth` or `width` is out of range.
    """

    def __init__(self, classes: int = 10, depth: int = 26, width: int = 32, *, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2, got {width}")
        group = (depth - 2) // 6
        outs = [width * factor for factor in (1, 2, 4) for _ in range(group)]
        ins = [_STEM_WIDTH, *outs[:-1]]
        strides = [2 if block in (group, 2 * group) else 1 for block in range(3 * group)]

        self.stem = nn.Sequential(same_conv(in_channels, _STEM_WIDTH, 3), nn.BatchNorm2d(_STEM_WIDTH))
        self.blocks = nn.Sequential(
            *(
                ShakeShakeBlock(width_in, width_out, stride)
                for width_in, width_out, stride in zip(ins, outs, strides, strict=True)
            )
        )
        self.activation = nn.ReLU()
        self.head = nn.Linear(outs[-1], classes)
        nn.init.zeros_(self.head.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.blocks(self.stem(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
