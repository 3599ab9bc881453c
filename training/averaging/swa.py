"""Stochastic weight averaging: the plain mean of snapshots late in the run.

P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson, "Averaging Weights Leads to Wider Optima and Better
Generalization" (arXiv:1803.05407), algorithm 1. The learning rate, constant or cyclic, is the schedule's business.
"""

from torch import Tensor
from torch.optim.swa_utils import get_swa_multi_avg_fn

from training.averaging.base import Averager

__all__ = ["Swa"]


class Swa(Averager):
    """The mean of the weights after `start`, `start + every`, ... steps, each counted once; BatchNorm is recomputed.

    `first_step` gives a `start` such that the run's last weights are among them. Buffers other than BatchNorm's are the
    network's own.

    Args:
        net: see `Averager`.
        every: optimizer steps between snapshots; in the paper an epoch, or a cycle of the learning rate.
        start: optimizer steps before the first snapshot; in the paper about three quarters of the run.

    Raises:
        UsageError: `every` is below 1.
    """

    def _blend(self, averages: list[Tensor], current: list[Tensor]) -> None:
        get_swa_multi_avg_fn()(averages, current, self.updates)  # type: ignore[no-untyped-call]
