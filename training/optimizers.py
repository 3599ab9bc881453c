"""Optimizers from a recipe's parameter groups."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from training.recipe import ParamGroup
from zoo.errors import UsageError

__all__ = ["FilterMuon", "build_optimizers"]


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


def build_optimizers(net: nn.Module, groups: Iterable[ParamGroup]) -> list[tuple[ParamGroup, torch.optim.Optimizer]]:
    """Make an optimizer for each group that has parameters; the last group may have none.

    Raises:
        UsageError: another group matches no parameter; or muon is to move what is no contiguous filter.
    """
    left = {name: p for name, p in net.named_parameters() if p.requires_grad}
    *named, rest = groups
    built: list[tuple[ParamGroup, torch.optim.Optimizer]] = []
    for group in (*named, rest):
        params = [left.pop(name) for name in list(left) if fnmatchcase(name, group.params)]
        if params:
            where = "[optimizer]" if group is rest else f"[[groups]] params = {group.params!r}"
            built.append((group, _optimizer(group, params, where)))
        elif group is not rest:
            raise UsageError(f"[[groups]] params = {group.params!r} matches no parameter that is left")
    return built


def _optimizer(group: ParamGroup, params: list[nn.Parameter], where: str) -> torch.optim.Optimizer:
    own, fused = group.optimizer, params[0].device.type == "cuda"
    match own.kind:
        case "muon":
            try:
                return FilterMuon(params, own.lr, own.momentum, own.weight_decay, normalize=own.normalize)
            except ValueError as error:
                raise UsageError(f"{where}: {error}") from error
        case "adamw":
            betas = (own.momentum, own.beta2)
            return torch.optim.AdamW(params, own.lr, betas, weight_decay=own.weight_decay, fused=fused)
        case "sgd":
            nesterov = own.momentum > 0
            return torch.optim.SGD(
                params, own.lr, own.momentum, weight_decay=own.weight_decay, nesterov=nesterov, fused=fused
            )
