"""Several processes that train one network: `torchrun` starts them, this says which of them we are."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.errors import MenagerieError, UsageError

__all__ = ["World", "joined", "local_device"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class World:
    """One process among `size`; `rank` counts from 0. Alone, every method does the obvious."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Say whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Return a network whose backward pass averages the gradients over the processes.

        Each process normalises by the statistics of its own images, and keeps the running statistics of rank 0.
        """
        if self.size == 1:
            return net
        return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; `values` may be overwritten."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:  # noqa: FBT001  # a value, not a switch
        """Say whether `flag` is true in any process; all must ask."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=device)) > 0)

    def lead(self, act: Callable[[], _T]) -> _T:
        """Call `act` in rank 0 alone, and return in every process what it returns there.

        Raises:
            MenagerieError: it did in rank 0; then it does in every process, so that none waits for another.
        """
        if self.size == 1:
            return act()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = act()
            except MenagerieError as error:
                box[1] = error
        distributed.broadcast_object_list(box)
        value, failure = box
        if failure is not None:
            raise failure
        out: _T = value
        return out

    def share_buffers(self, net: nn.Module) -> None:
        """Give all processes rank 0's buffers of a network, such as BatchNorm's running statistics."""
        if self.size > 1:
            for buffer in net.buffers():
                distributed.broadcast(buffer, 0)


def local_device(asked: str | None) -> str | None:
    """Return the device of this process: `cuda` becomes the one that `torchrun` assigned (`LOCAL_RANK`)."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or not torch.cuda.is_available() or asked not in {None, "cuda"}:
        return asked
    return f"cuda:{local}"


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started, if it did; leave them at the end.

    Raises:
        UsageError: the variables that `torchrun` sets are incomplete.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise UsageError(f"WORLD_SIZE is {size}, but this is not a process of torchrun's: {error}") from error
    try:
        with warnings.catch_warnings():
            # 1x1 filters have two descriptions of the same layout, which DistributedDataParallel takes for two layouts.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
