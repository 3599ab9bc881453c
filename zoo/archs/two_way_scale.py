"""Scaling by one factor forward and by another backward: what ShakeDrop and Shake-Shake do to residual branches."""

from typing import Any

from torch import Tensor
from torch.autograd import Function

__all__ = ["two_way_scale"]


class _TwoWayScale(Function):
    """`x * ahead`, whose gradient is `grad * back`: two independent factors, so not the derivative of the forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ahead: Tensor, back: Tensor) -> Tensor:  # noqa: ANN401  # as in torch
        ctx.save_for_backward(back)
        return x * ahead

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401  # as in torch
        (grad,) = grads
        (back,) = ctx.saved_tensors
        return grad * back, None, None


def two_way_scale(x: Tensor, ahead: Tensor, back: Tensor) -> Tensor:
    """Scale `x` by `ahead`, and the gradient that comes back through it by `back`.

    Args:
        x: any shape.
        ahead: forward factor; broadcasts against `x`, and gets no gradient itself.
        back: backward factor, likewise.

    Returns:
        `x * ahead`, of `x`'s shape and dtype.
    """
    out: Tensor = _TwoWayScale.apply(x, ahead.to(x.dtype), back.to(x.dtype))
    return out
