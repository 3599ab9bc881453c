"""Exponential moving average of weights and BatchNorm statistics.

The decay's warm-up is that of TensorFlow's `ExponentialMovingAverage` (`num_updates`).
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.averaging.base import Averager
from zoo.errors import UsageError

__all__ = ["Ema", "ema_decay"]


def ema_decay(decay: float, updates: int, every: int = 1) -> float:
    """Return the decay of one update: `min(decay ** every, (1 + t) / (10 + t))`.

    Args:
        decay: of one optimizer step, in [0, 1).
        updates: t, the snapshots before this one. While the second term is the smaller, the average reaches back over
            about the last ninth of the run so far, however often it is updated.
        every: optimizer steps between updates; the horizon, about `1 / (1 - decay)` steps, does not depend on it.
    """
    return min(decay**every, (1 + updates) / (10 + updates))


class Ema(Averager):
    """`average = d * average + (1 - d) * weights` every k steps, d from `ema_decay`, for floating-point buffers too.

    The first update copies the weights; before it, the average is the network itself. BatchNorm's running mean and
    variance are averaged with the same d, so no pass over data is needed at the end; its counter of batches is the
    network's own.

    Args:
        net: see `Averager`.
        decay: of one optimizer step, in [0, 1).
        every: optimizer steps between updates.
        start: optimizer steps before the first update.

    Raises:
        UsageError: the decay is not in [0, 1), or `every` is below 1.
    """

    averages_buffers: ClassVar[bool] = True
    fewest: ClassVar[int] = 0

    def __init__(self, net: nn.Module, decay: float, *, every: int = 1, start: int = 0) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"an EMA decay of {decay} is not possible: give one in [0, 1)")
        super().__init__(net, every=every, start=start)
        self.decay = decay

    def _blend(self, averages: list[Tensor], current: list[Tensor]) -> None:
        decay = ema_decay(self.decay, self.updates, self.every)
        get_ema_multi_avg_fn(decay)(averages, current, None)  # type: ignore[no-untyped-call]
