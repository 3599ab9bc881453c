"""Lookahead: the network goes on from its own average (M. Zhang et al., arXiv:1907.08610).

With the rising decay of airbench: K. Jordan, arXiv:2404.00498, section 3.4; KellerJordan/cifar10-airbench at 033d2e7,
`airbench96.py`, `LookaheadState`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.averaging.base import Averager, is_due, put_tensors
from zoo.errors import UsageError

__all__ = ["Lookahead"]


class Lookahead(Averager):
    """Every k steps, `slow = d * slow + (1 - d) * weights`, and the network goes on from `slow`.

    `slow` begins as the network given. `d = decay ** k * (step / steps) ** ramp`: hardly any averaging at first, when
    the weights still move far, and all of it at the end. BatchNorm's running statistics are averaged like the weights.
    The optimizer's momentum stays.

    Args:
        net: see `Averager`; `update` changes it.
        decay: of one optimizer step at the end of the run, in [0, 1).
        steps: optimizer steps of the whole run.
        ramp: power of the share of the run that `d` rises with; 0 for the constant one of the paper.
        every: k, optimizer steps between updates (the paper's inner steps).
        start: optimizer steps before the first update.

    Raises:
        UsageError: the decay is not in [0, 1), or `every` is below 1.
    """

    averages_buffers: ClassVar[bool] = True
    fewest: ClassVar[int] = 0

    def __init__(
        self, net: nn.Module, decay: float, *, steps: int, ramp: float = 3.0, every: int = 5, start: int = 0
    ) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"a Lookahead decay of {decay} is not possible: give one in [0, 1)")
        super().__init__(net, every=every, start=start)
        self.decay, self.steps, self.ramp = decay, steps, ramp
        self._step = 0
        with torch.no_grad():
            self._take(self._snapshot(net))

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Average, and write the average into the network, if a snapshot is due; see `Averager.update`."""
        if is_due(step, self.start, self.every):
            self._step = step
            super().update(net, step)
            put_tensors(net, self._averages)

    def _blend(self, averages: list[Tensor], current: list[Tensor]) -> None:
        decay = self.decay**self.every * (self._step / self.steps) ** self.ramp
        get_ema_multi_avg_fn(decay)(averages, current, None)  # type: ignore[no-untyped-call]
