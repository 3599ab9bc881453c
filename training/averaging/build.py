"""The average that a recipe asks for."""

from torch import nn

from training.averaging.base import Averager, first_step
from training.averaging.ema import Ema
from training.averaging.lookahead import Lookahead
from training.averaging.swa import Swa
from training.averaging.swag import Swag
from training.recipe import Average
from zoo.errors import UsageError

__all__ = ["build_averager"]


def build_averager(average: Average | None, net: nn.Module, steps: int) -> Averager | None:
    """Make the average of a recipe's `[average]` table; None if it has none.

    Snapshots are placed such that the last one is of the run's last weights.

    Args:
        average: the table.
        net: what is going to be trained, on its device.
        steps: optimizer steps of the whole run.

    Raises:
        UsageError: the run is too short for it: SWAG needs two snapshots.
    """
    if average is None:
        return None
    share = average.start if average.kind in {"swa", "swag"} else 0
    start = first_step(share, steps, average.every)
    made: Averager
    match average.kind:
        case "ema":
            made = Ema(net, average.decay, every=average.every, start=start)
        case "lookahead":
            made = Lookahead(net, average.decay, steps=steps, ramp=average.ramp, every=average.every, start=start)
        case "swa":
            made = Swa(net, every=average.every, start=start)
        case "swag":
            made = Swag(net, every=average.every, start=start, rank=average.rank, draws=average.samples)
    snapshots = len(range(start or average.every, steps + 1, average.every))  # there is none before the first step
    if snapshots < made.fewest:
        raise UsageError(
            f"average.every = {average.every} leaves {snapshots} of the {made.fewest} snapshots that {average.kind} "
            f"needs in this run of {steps} steps: lower it, or average.start"
        )
    return made
