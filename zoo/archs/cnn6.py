"""CNN-6: six plain convolutions; a baseline, and the smallest student.

No residuals and no pooling between the layers, which stride instead: J. Springenberg, A. Dosovitskiy, T. Brox,
M. Riedmiller, "Striving for Simplicity: The All Convolutional Net" (arXiv:1412.6806), section 2. The widths are ours.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

__all__ = ["VARIANTS", "PlainCNN"]

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "cnn6": {"widths": (32, 64, 64, 128, 128, 256)},
}
"""Variant name -> arguments of `PlainCNN`."""


class PlainCNN(nn.Module):
    """3x3 convolution, BN, ReLU for each width; every second one with stride 2; global average pooling, a linear head.

    Args:
        classes: number of classes C.
        widths: channels of the layers, at least one.
        in_channels: image channels.

    Shape: images `[N, in_channels, H, W]`, normalised -> logits `[N, C]`.

    Raises:
        ValueError: if there are no widths.
    """

    def __init__(
        self, classes: int = 10, widths: Sequence[int] = (32, 64, 64, 128, 128, 256), *, in_channels: int = 3
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must not be empty")
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width_in, width_out, 3, stride=1 + layer % 2, padding=1, bias=False),
                    nn.BatchNorm2d(width_out),
                    nn.ReLU(),
                )
                for layer, (width_in, width_out) in enumerate(pairwise((in_channels, *widths)))
            )
        )
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits
