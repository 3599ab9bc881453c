"""Sharpness-aware minimisation: step by the gradient at the nearby point where the loss is about highest.

P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization"
(arXiv:2010.01412), algorithm 1; the adaptive form: J. Kwon, J. Kim, H. Park, I. K. Choi, "ASAM" (arXiv:2102.11600),
algorithm 1; code: SamsungLabs/ASAM at dc9b513, `asam.py`.

One step, after a first backward pass at the weights:

    with ascend(net.parameters(), rho=0.05), frozen_statistics(net):
        loss(net(images), labels).backward()
    optimizer.step()
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

__all__ = ["ascend", "frozen_statistics", "perturbations"]


@torch.no_grad()
def perturbations(
    params: list[Tensor], grads: list[Tensor], rho: float, *, adaptive: bool = False, eta: float = 0.01
) -> list[Tensor]:
    """Return the step up to the highest loss, to first order, within a distance of `rho`.

    Plain: `rho * g / |g|`, with the norm over all parameters jointly. Adaptive: `rho * T^2 g / |T g|`, where T is the
    diagonal of `|w| + eta`, which does not depend on how weights are scaled from layer to layer; T is of every
    parameter here, while the authors' code takes T = 1 for biases. A factor common to all gradients, such as fp16's
    loss scale, has no effect. No gradient at all (a norm of zero) gives no perturbation; one that is not finite gives
    NaN, so that it is noticed.

    Args:
        params: weights w, of any shapes.
        grads: their gradients g, of the same shapes.
        rho: distance, 0 or more; 0.05 in the paper for CIFAR, and ten times as much or more where adaptive.
        adaptive: whether the distance is relative to the weights.
        eta: keeps weights near zero movable, where adaptive.

    Returns:
        One tensor for each parameter, of its shape.

    Raises:
        ValueError: `rho` is below 0.
    """
    if not rho >= 0:
        raise ValueError(f"SAM's rho cannot be {rho}: give 0 or more")
    # The foreach functions are what torch's own optimizers use: one kernel for all tensors.
    sizes = torch._foreach_add(torch._foreach_abs(params), eta) if adaptive else None  # noqa: SLF001
    steps = torch._foreach_mul(grads, sizes) if sizes else grads  # noqa: SLF001
    norm = get_total_norm(steps)
    factor = torch.where(norm == 0, 0, rho / norm)  # on the device: nothing waits for it
    out: tuple[Tensor, ...] = torch._foreach_mul(steps, factor)  # noqa: SLF001
    return list(torch._foreach_mul(out, sizes) if sizes else out)  # noqa: SLF001


@contextmanager
def ascend(params: Iterable[nn.Parameter], rho: float, *, adaptive: bool = False, eta: float = 0.01) -> Iterator[None]:
    """Move parameters by their `perturbations`; on leaving, also by an exception, they are bit for bit what they were.

    Their gradients are used up: inside they start from None, so that after the second backward pass they hold the
    gradient at the moved weights only.

    Args:
        params: those without a gradient stay where they are.
        rho: see `perturbations`, as for `adaptive` and `eta`.
        adaptive: whether the distance is relative to the weights.
        eta: keeps weights near zero movable, where adaptive.

    Raises:
        ValueError: no parameter has a gradient, or `rho` is below 0.
    """
    moved = [p for p in dict.fromkeys(params) if p.grad is not None]
    if not moved:
        raise ValueError("SAM needs gradients: call backward() at the weights first")
    weights = [p.detach() for p in moved]
    steps = perturbations(weights, [p.grad for p in moved if p.grad is not None], rho, adaptive=adaptive, eta=eta)
    with _restored(weights):
        torch._foreach_add_(weights, steps)
        del steps  # as large as the weights, and the second pass needs the memory
        for p in moved:
            p.grad = None
        yield


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Give all of a network's buffers back their values on leaving, also by an exception.

    Inside, BatchNorm normalises by its batch as ever in training, but what it adds to its running statistics and its
    counter is undone: they are to follow the weights, not the moved weights. Both passes, forward and backward, belong
    inside. (Switching layers to `momentum = 0` instead lets a NaN through, and makes `torch.compile` start over.)
    """
    buffers: dict[torch.dtype, list[Tensor]] = {}
    for buffer in net.buffers():
        buffers.setdefault(buffer.dtype, []).append(buffer.detach())
    with _restored(*buffers.values()):
        yield


@contextmanager
def _restored(*groups: list[Tensor]) -> Iterator[None]:
    """Copy tensors aside, and back on leaving. Groups of one dtype each are copied by one kernel."""
    copies = [[torch.empty_like(t) for t in tensors] for tensors in groups]
    for copied, tensors in zip(copies, groups, strict=True):
        torch._foreach_copy_(copied, tensors)
    try:
        yield
    finally:
        for copied, tensors in zip(copies, groups, strict=True):
            torch._foreach_copy_(tensors, copied)
