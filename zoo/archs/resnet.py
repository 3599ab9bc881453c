"""ResNet: residual networks for 32x32 images, of 16, 32 and 64 channels, and ResNet-18 with a stem for such images.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2. The
paper's CIFAR networks have parameter-free shortcuts (option A); the plain names project where the width changes
(option B). ResNet-18 is that of table 1, but begins with a 3x3 convolution of stride 1 and without max pooling, as in
kuangliu/pytorch-cifar, `models/resnet.py`. Optionally with stochastic depth (arXiv:1603.09382), or with
GroupNorm and weight standardisation (arXiv:1903.10520).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.branch_drop import branch_drops
from zoo.archs.standardised import StandardisedConv2d, group_norm

__all__ = ["VARIANTS", "Norm", "ResBlock", "ResNet", "SubsampledShortcut"]

Norm = Literal["batch", "group"]
"""BatchNorm and plain convolutions, or GroupNorm and weight-standardised ones."""

_DEPTHS = (20, 32, 44, 56, 110)

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{f"resnet{depth}": {"depth": depth} for depth in _DEPTHS},
    **{f"resnet{depth}-a": {"depth": depth, "projection": False} for depth in _DEPTHS},
    "resnet18": {"depth": 18, "widths": (64, 128, 256, 512)},
}
"""Variant name -> arguments of `ResNet`."""

_KINDS: Mapping[str, tuple[type[nn.Conv2d], Callable[[int], nn.Module]]] = {
    "batch": (nn.Conv2d, nn.BatchNorm2d),
    "group": (StandardisedConv2d, group_norm),
}


def _conv_norm(norm: Norm, width_in: int, width_out: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.Module]:
    """Return a convolution and the normalisation of its output."""
    conv, normalise = _KINDS[norm]
    return conv(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False), normalise(width_out)


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
    """3x3, norm, ReLU, 3x3, norm, plus the shortcut, then ReLU.

    Args:
        width_in: channels of the input.
        width_out: channels of the output, at least as many.
        stride: of the first convolution and of the shortcut.
        projection: where the shape changes, a 1x1 convolution and norm (option B) rather than `SubsampledShortcut`.
        drop: what the branch's output goes through before it is added, one of `branch_drops`.
        norm: see `Norm`.

    Shape: `[N, width_in, H, W]` -> `[N, width_out, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(
        self, width_in: int, width_out: int, stride: int, drop: nn.Module, *, projection: bool, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_conv_norm(norm, width_in, width_out, 3, stride), nn.ReLU(), *_conv_norm(norm, width_out, width_out, 3)
        )
        self.drop = drop
        self.shortcut: nn.Module
        if width_in == width_out and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = nn.Sequential(*_conv_norm(norm, width_in, width_out, 1, stride))
        else:
            self.shortcut = SubsampledShortcut(width_out - width_in, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.drop(self.branch(x)) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """3x3 convolution, norm, ReLU, groups of `ResBlock`s, global average pooling, a linear head.

    All groups but the first begin with stride 2.

    Args:
        classes: number of classes C.
        depth: 2 * G * n + 2, where G is the number of groups and n >= 1 that of the blocks of a group.
        widths: channels of the G groups, none with fewer than the one before.
        projection: project the shortcut where the width changes (option B) rather than pad it with zeros (option A).
        stochastic_depth: drop probability at the last block, growing linearly from the first; 0 goes without.
        norm: `batch`, or `group` for GroupNorm and weight-standardised convolutions.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised -> logits `[N, C]`.

    Raises:
        ValueError: if `depth`, `widths` or `stochastic_depth` is out of range, or `norm` is unknown.
    """

    def __init__(
        self,
        classes: int = 10,
        depth: int = 20,
        widths: Sequence[int] = (16, 32, 64),
        *,
        projection: bool = True,
        stochastic_depth: float = 0.0,
        norm: Norm = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not widths or widths[0] < 1 or list(widths) != sorted(widths):
            raise ValueError(f"widths must be positive and must not fall, got {list(widths)}")
        step = 2 * len(widths)
        if depth < step + 2 or (depth - 2) % step:
            raise ValueError(f"depth must be {step}n + 2 with n >= 1, got {depth}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        group = (depth - 2) // step
        outs = [width for width in widths for _ in range(group)]
        ins = [widths[0], *outs[:-1]]
        strides = [2 if block and block % group == 0 else 1 for block in range(len(outs))]
        drops = branch_drops(len(outs), stochastic_depth=stochastic_depth)

        self.stem = nn.Sequential(*_conv_norm(norm, in_channels, widths[0], 3), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                ResBlock(width_in, width_out, stride, drop, projection=projection, norm=norm)
                for width_in, width_out, stride, drop in zip(ins, outs, strides, drops, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits
