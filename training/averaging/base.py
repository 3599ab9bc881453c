"""What all averages of weights have in common: when a snapshot is due, where it is kept, how a network gets it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from training.averaging.batch_norm import BatchSource, recompute_statistics
from tta.predict import Precision
from zoo.errors import MenagerieError, UsageError

__all__ = ["Averager", "BatchSource", "first_step", "is_due", "put_tensors", "with_tensors"]

_Net = TypeVar("_Net", bound=nn.Module)


def is_due(step: int, start: int, every: int) -> bool:
    """Return whether a snapshot is taken after `step` optimizer steps: at `start` and every `every` steps on."""
    return step >= start and (step - start) % every == 0


def first_step(share: float, total: int, every: int) -> int:
    """Return the first step, no earlier than `share` of `total` (rounded), from which every `every`-th ends at `total`.

    The weights at the end of the run are thus always among the snapshots.

    Raises:
        UsageError: the share is not in [0, 1], or `every` is below 1.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"averaging cannot start at a share of {share} of the run: give one in [0, 1]")
    _check_every(every)
    return total - (total - round(share * total)) // every * every


def _check_every(every: int) -> None:
    if every < 1:
        raise UsageError(f"averaging every {every} steps is not possible: give 1 or more")


@torch.no_grad()
def with_tensors(net: _Net, values: Mapping[str, Tensor]) -> _Net:
    """Return a copy of a network, in evaluation mode, with some parameters and buffers replaced.

    Args:
        net: is left alone.
        values: parameter or buffer name -> tensor of its shape, converted to its dtype.
    """
    out = copy.deepcopy(net).eval()
    put_tensors(out, values)
    return out


@torch.no_grad()
def put_tensors(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite some parameters and buffers of a network: name -> tensor of its shape, converted to its dtype."""
    own = _tensors(net)
    for name, value in values.items():
        own[name].copy_(value)


class Averager(ABC):
    """A running average of a network's weights.

    Trainable parameters are averaged, in float32 at least. Frozen parameters and integer buffers are the network's own.
    `torch.optim.swa_utils.AveragedModel` is not used because it averages integer buffers like the others, and asks the
    GPU for its counter at every update.

    Args:
        net: what will be averaged, bare (neither compiled nor in DistributedDataParallel) and on its device; names and
            shapes are taken from it. Parameters that are frozen now are left out.
        every: optimizer steps between snapshots.
        start: optimizer steps before the first one.

    Attributes:
        updates: snapshots taken so far.

    Raises:
        UsageError: `every` is below 1.
    """

    averages_buffers: ClassVar[bool] = False
    """Whether floating-point buffers are averaged like weights. Otherwise BatchNorm statistics are recomputed."""

    fewest: ClassVar[int] = 1
    """Snapshots without which there is no average."""

    def __init__(self, net: nn.Module, *, every: int = 1, start: int = 0) -> None:
        _check_every(every)
        self.every, self.start, self.updates = every, start, 0
        self._shapes = {name: p.shape for name, p in net.named_parameters() if p.requires_grad}
        if self.averages_buffers:
            self._shapes |= {name: b.shape for name, b in net.named_buffers() if b.is_floating_point()}
        self._device = next(net.parameters()).device
        self._averages: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        """Whether there are snapshots enough for an average."""
        return self.updates >= self.fewest

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take the network's weights in, if a snapshot is due.

        Args:
            net: the network given at the start; left alone by all averages but Lookahead.
            step: optimizer steps done so far, from 1.
        """
        if is_due(step, self.start, self.every):
            self._take(self._snapshot(net))
            self.updates += 1

    def _snapshot(self, net: nn.Module) -> dict[str, Tensor]:
        """Return what is averaged of a network: its own tensors."""
        own = _tensors(net)
        return {name: own[name].detach() for name in self._shapes}

    def _take(self, current: dict[str, Tensor]) -> None:
        """Blend a snapshot into the averages; the first one is copied."""
        if not self._averages:
            self._averages = {name: t.to(_at_least_fp32(t.dtype), copy=True) for name, t in current.items()}
            return
        averages = list(self._averages.values())
        self._blend(averages, [t.to(a.dtype) for t, a in zip(current.values(), averages, strict=True)])

    @abstractmethod
    def _blend(self, averages: list[Tensor], current: list[Tensor]) -> None:
        """Move the averages, in place, for the snapshot number `updates`, counted from 0."""

    def average(self, net: nn.Module, batches: BatchSource, precision: Precision = "fp32") -> nn.Module:
        """Return the averaged network, in evaluation mode, with BatchNorm statistics that fit it.

        Args:
            net: the network given at the start; is left alone.
            batches: training images for the BatchNorm statistics, where they are not averaged.
            precision: of that pass.

        Raises:
            MenagerieError: not `ready`; or there is no batch.
        """
        self._check_ready()
        return self._finished(net, self._averages, batches, precision)

    def _check_ready(self) -> None:
        if not self.ready:
            raise MenagerieError(
                f"too few snapshots were averaged ({self.updates}): train longer, start earlier or average more often"
            )

    def _finished(
        self, net: nn.Module, values: Mapping[str, Tensor], batches: BatchSource, precision: Precision
    ) -> nn.Module:
        out = with_tensors(net, values)
        if not self.averages_buffers:
            recompute_statistics(out, batches, precision)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on: numbers and tensors. The tensors are the live ones."""
        return {"updates": self.updates, "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; its tensors are copied.

        Raises:
            MenagerieError: the state is of another network.
        """
        self._averages = self._owned(state["averages"])
        self.updates = int(state["updates"])

    def _owned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy saved tensors to the network's device."""
        if tensors and {name: t.shape for name, t in tensors.items()} != self._shapes:
            raise MenagerieError("the saved averages are of another network: start the run anew")
        return {name: t.to(self._device, copy=True) for name, t in tensors.items()}


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers; a shared one appears once."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Half-precision averages would lose the small steps they consist of."""
    return torch.promote_types(dtype, torch.float32)
