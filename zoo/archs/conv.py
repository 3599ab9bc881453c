"""The convolution that the residual families share."""

from torch import nn

__all__ = ["same_conv"]


def same_conv(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps height and width, but for the stride; `kernel` is odd."""
    return nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False)
