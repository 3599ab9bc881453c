"""Averages of a network's weights along its training: EMA, SWA, SWAG and Lookahead, behind one small interface.

`Averager` is the interface: `update` after every optimizer step, `average` for the averaged network.
"""

from training.averaging.base import Averager, BatchSource, first_step, is_due, with_tensors
from training.averaging.batch_norm import recompute_statistics
from training.averaging.build import build_averager
from training.averaging.ema import Ema, ema_decay
from training.averaging.lookahead import Lookahead
from training.averaging.swa import Swa
from training.averaging.swag import Swag

__all__ = [
    "Averager",
    "BatchSource",
    "Ema",
    "Lookahead",
    "Swa",
    "Swag",
    "build_averager",
    "ema_decay",
    "first_step",
    "is_due",
    "recompute_statistics",
    "with_tensors",
]
