"""Learning-rate schedules as pure functions of the step.

A closed formula for each, rather than a recursion from step to step: nothing drifts, any step can be asked for (to plot
it, or to go on from it), and a formula is the same at every world size. `training.step` applies them.
"""

import itertools
import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from training.expression import compile_expression
from training.recipe import Schedule
from training.tables import LAMBDA_NAMES
from zoo.errors import UsageError

__all__ = ["cycle_ends", "factor", "plateau"]


def factor(schedule: Schedule, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """Return step (counted from 0) -> factor of the learning rate.

    Args:
        schedule: which one; the `plateau` schedule is no function of the step.
        steps: of the whole run, S.
        steps_per_epoch: divides `steps`.

    Raises:
        ValueError: the schedule is `plateau`.
        UsageError: when called: a `lambda` schedule's expression is not a finite number of at least 0.
    """
    warm = schedule.warmup * steps
    shape = _shape(schedule, steps - warm, steps_per_epoch, warm)

    def at(step: int) -> float:
        if schedule.by == "epoch":
            step -= step % steps_per_epoch
        if step < warm:
            return schedule.warmup_from + (shape(0.0) - schedule.warmup_from) * step / warm
        return shape(step - warm)

    return at


def _shape(schedule: Schedule, steps: float, steps_per_epoch: int, warm: float) -> Callable[[float], float]:  # noqa: PLR0911  # a line a kind
    """Return steps since the warm-up -> factor; lengths of `schedule` are shares of the run, warm-up included."""
    run = steps + warm
    low, end = schedule.final, schedule.end * run - warm
    match schedule.kind:
        case "constant":
            return lambda _s: 1.0
        case "linear":
            return lambda s: low + (1 - low) * max(0.0, 1 - s / end)
        case "cosine":
            return lambda s: low + (1 - low) * _half_cosine(min(s / end, 1.0))
        case "step":
            return lambda s: float(schedule.gamma ** _whole((s + warm) / (schedule.every * run)))
        case "multistep":
            return lambda s: float(schedule.gamma ** sum(s + warm >= m * run - _EPS for m in schedule.milestones))
        case "restarts":
            return lambda s: low + (1 - low) * _half_cosine(_in_cycle(schedule, s / steps)[1])
        case "cyclic":
            return lambda s: _triangle(schedule, s / steps)
        case "onecycle":
            return lambda s: _one_cycle(schedule, s, steps)
        case "lambda":
            return _expression(schedule.factor, steps_per_epoch, run, warm)
        case _:
            raise ValueError("the plateau schedule depends on the validation accuracy, not on the step alone")


_EPS = 1e-9
"""A milestone at a share like 0.3 of 90 steps is step 27, whatever 0.3 * 90 rounds to."""


def _whole(value: float) -> int:
    return math.floor(value + _EPS)


def _half_cosine(share: float) -> float:
    """From 1 at share 0 to 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def cycle_ends(schedule: Schedule) -> list[float]:
    """Return where the cycles of a `restarts` or `cyclic` schedule end: rising shares of what follows the warm-up."""
    growth = schedule.growth if schedule.kind == "restarts" else 1.0
    ends = list(itertools.accumulate(growth**cycle for cycle in range(schedule.cycles)))
    return [end / ends[-1] for end in ends]


def _in_cycle(schedule: Schedule, share: float) -> tuple[int, float]:
    """Return the cycle that `share` of the run lies in, and how far in it, in [0, 1)."""
    ends = cycle_ends(schedule)
    cycle = min(sum(share >= end - _EPS for end in ends), len(ends) - 1)
    begin = ends[cycle - 1] if cycle else 0.0
    return cycle, min(max((share - begin) / (ends[cycle] - begin), 0.0), 1.0)


def _triangle(schedule: Schedule, share: float) -> float:
    """From `final` up in the middle of each cycle, less high by `shrink` each time, and down again."""
    cycle, within = _in_cycle(schedule, share)
    return schedule.final + (1 - schedule.final) * schedule.shrink**cycle * (1 - abs(2 * within - 1))


def _one_cycle(schedule: Schedule, step: float, steps: float) -> float:
    """Half a cosine from `initial` up to 1 at `peak`, and another down to `final` at the last step (as torch's)."""
    top, last = schedule.peak * steps - 1, steps - 1
    if step < top:
        return 1 + (schedule.initial - 1) * _half_cosine(step / top)
    return schedule.final + (1 - schedule.final) * _half_cosine(min((step - top) / (last - top), 1.0))


def _expression(text: str, steps_per_epoch: int, run: float, warm: float) -> Callable[[float], float]:
    value = compile_expression(text, LAMBDA_NAMES)

    def at(since: float) -> float:
        step = since + warm
        found = value({"step": step, "epoch": step / steps_per_epoch, "t": step / run})
        if found < 0:
            raise UsageError(f"schedule.factor, {text!r}, is {found} at step {step:g}: it must not be negative")
        return found

    return at


def plateau(schedule: Schedule, optimizer: Optimizer) -> ReduceLROnPlateau:
    """Return the scheduler of a `plateau` schedule, to be stepped with the validation accuracy after each epoch."""
    return ReduceLROnPlateau(optimizer, mode="max", factor=schedule.gamma, patience=schedule.patience)
