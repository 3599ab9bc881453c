"""Optimizers from a recipe's parameter groups."""

import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.recipe import ParamGroup
from zoo.errors import UsageError

__all__ = ["FilterMuon", "anneal", "build_optimizers"]


class FilterMuon(torch.optim.Muon):
    """Muon for convolution filters: a `[out, in, kh, kw]` weight is updated as the matrix `[out, in * kh * kw]`.

    `torch.optim.Muon` takes 2-D parameters only, so it is given views of the filters' storage.
    Source: K. Jordan, "Muon" (2024); KellerJordan/cifar10-airbench at 096d14d, `airbench94_muon.py`.

    Args:
        filters: contiguous 4-D parameters.
        lr: spectral norm, about, of each update of a filter bank with no more rows than columns. As in
            `torch.optim.Muon`, and other than in the source, taller ones get `sqrt(rows / columns)` times as much.
        momentum: Nesterov momentum, in [0, 1).
        weight_decay: decoupled.
        normalize: rescale each weight to Frobenius norm sqrt(out) before every update.

    Raises:
        ValueError: a parameter is not 4-D or not contiguous (a channels-last weight is not).
    """

    def __init__(
        self, filters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, *, normalize: bool
    ) -> None:
        self._filters = list(filters)
        self._normalize = normalize
        if not all(f.ndim == 4 and f.is_contiguous() for f in self._filters):  # noqa: PLR2004
            raise ValueError("Muon needs contiguous filters of shape [out, in, kh, kw]")
        matrices = [f.detach().flatten(1) for f in self._filters]
        super().__init__(matrices, lr, weight_decay, momentum, nesterov=True, ns_steps=3)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all filters that have a gradient; a closure is not supported."""
        if closure is not None:
            raise ValueError("FilterMuon takes no closure")
        matrices = cast("list[Tensor]", self.param_groups[0]["params"])
        for weight, matrix in zip(self._filters, matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
            if self._normalize:
                matrix.mul_(len(matrix) ** 0.5 / matrix.norm())
        super().step()  # type: ignore[no-untyped-call]
        return None

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  # torch's signature
        """Clear the gradients of the filters themselves."""
        for weight in self._filters:
            weight.grad = None
        super().zero_grad(set_to_none)


def anneal(schedule: Literal["linear", "cosine"], steps: float) -> Callable[[int], float]:
    """Return step -> learning-rate factor: from 1 at step 0 down to 0 at step `steps`, and 0 from there on."""

    def factor(step: int) -> float:
        left = max(0.0, 1 - step / steps)
        return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2

    return factor


def build_optimizers(
    net: nn.Module, groups: Iterable[ParamGroup], total_steps: int
) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
    """Make one optimizer and one schedule for each group that has parameters.

    Raises:
        UsageError: a trainable parameter matches no group, or a group matches none.
    """
    left = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizers: list[torch.optim.Optimizer] = []
    schedules: list[LambdaLR] = []
    for group in groups:
        params = [left.pop(name) for name in list(left) if fnmatchcase(name, group.params)]
        if not params:
            raise UsageError(f"[[groups]] params = {group.params!r} matches no parameter that is left")
        optimizers.append(_optimizer(group, params))
        schedules.append(LambdaLR(optimizers[-1], anneal(group.schedule, group.anneal * total_steps)))
    if left:
        raise UsageError(f"no [[groups]] matches {', '.join(left)}")
    return optimizers, schedules


def _optimizer(group: ParamGroup, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": group.lr, "momentum": group.momentum, "weight_decay": group.weight_decay}
    if group.optimizer == "muon":
        try:
            return FilterMuon(params, **shared, normalize=group.normalize)
        except ValueError as error:
            raise UsageError(f"[[groups]] params = {group.params!r}: {error}") from error
    return torch.optim.SGD(params, **shared, nesterov=group.momentum > 0)
