"""Max pooling as the maximum of slices, which a CPU computes on whole vectors."""

from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SlicedMaxPool2d", "slice_max_pools", "sliced_max_pool2d"]

_Net = TypeVar("_Net", bound=nn.Module)


def sliced_max_pool2d(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Return what `torch.nn.functional.max_pool2d` does without padding, as the maximum of strided slices.

    First the rows of a window, then its columns. PyTorch's own kernel looks at one number after the other in
    contiguous activations on a CPU, and keeps where the maximum was, which only training needs: 2x2 windows of fp32
    take it ten times as long. Channels-last ones it takes a vector at a time, about as fast as this.

    Args:
        x: `[..., H, W]`.
        kernel: height and width of a window, at most H and W.
        stride: rows and columns from a window to the next.

    Returns:
        `[..., (H - kernel[0]) // stride[0] + 1, (W - kernel[1]) // stride[1] + 1]`.
    """
    rows = reduce(torch.maximum, x.unfold(-2, kernel[0], stride[0]).unbind(-1))
    return reduce(torch.maximum, rows.unfold(-1, kernel[1], stride[1]).unbind(-1))


class SlicedMaxPool2d(nn.Module):
    """Max pooling without padding for inference: `sliced_max_pool2d` where that is faster, else PyTorch's own.

    Shape: `[N, C, H, W]` or `[C, H, W]` -> the same with H' and W', as `sliced_max_pool2d`.
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        fits = x.shape[-2] >= self.kernel[0] and x.shape[-1] >= self.kernel[1]
        if x.device.type == "cpu" and x.is_contiguous() and fits:  # PyTorch says best what does not fit
            return sliced_max_pool2d(x, self.kernel, self.stride)
        return functional.max_pool2d(x, self.kernel, self.stride)

    def extra_repr(self) -> str:
        """Return what it pools, for `print`."""
        return f"kernel_size={self.kernel}, stride={self.stride}"


def slice_max_pools(net: _Net) -> _Net:
    """Replace the max poolings of a network, in place, by `SlicedMaxPool2d` where those do the same; return it."""
    named = net.named_modules(remove_duplicate=False)  # one that is called in two places has two names
    pools = [(name, module) for name, module in named if name and type(module) is nn.MaxPool2d]
    for name, pool in pools:
        kernel, stride, padding, dilation = (
            _pair(x) for x in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        if padding == (0, 0) and dilation == (1, 1) and not pool.ceil_mode and not pool.return_indices:
            net.set_submodule(name, SlicedMaxPool2d(kernel, stride))
    return net


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of what may be one number for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
