"""Thresholds of all stages together: the fewest multiply-adds within an allowed drop of accuracy.

Lowering a threshold makes a cascade cheaper, and costs accuracy only where it passes an image to which the stage gives
another class than the whole committee, or one on which a later stage would have been right and the whole wrong. So the
optimum lies right above the confidences of such images, which are few, and all combinations of them are scored at once,
from cumulative sums over a table with an axis a stage. It is exact unless a stage has more of them than the table has
room for.

Two drops are held down. The observed one, as counted, can be small by luck: what is lost on one image is won back on
another. The expected one cannot: an image's part is the whole committee's probability of its own class less that of the
stage's, which is never negative, and right on average as far as the committee is calibrated. It also varies far less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_STAGES", "Choice", "Signal", "best_thresholds", "candidates"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MOST_STAGES = 4
"""Stages of a cascade, the last included, so that the table of all combinations has at most three axes."""

_ROOM = {1: 4096, 2: 512, 3: 96}  # thresholds of a stage that are tried, by the number of stages that have one
_SLACK = 1e-9  # of sums


@dataclass(frozen=True, eq=False)
class Signal:
    """What a stage says of N images.

    Attributes:
        top: its classes, `[N]`.
        confidence: its largest probability, `[N]`.
        expected: the probability that the whole committee gives to its own class, less that it gives to the stage's,
            `[N]`, never negative.
        lost: 1 where the whole is right and the stage wrong, -1 the other way round, else 0, `[N]`.
        differs: whether the stage's class is another than the whole's, `[N]`.
    """

    top: npt.NDArray[np.intp]
    confidence: Array
    expected: Array
    lost: npt.NDArray[np.int64]
    differs: Mask

    @cached_property
    def values(self) -> Array:
        """The confidences that there are, rising."""
        return np.unique(self.confidence)


@dataclass(frozen=True)
class Choice:
    """Thresholds of a cascade.

    Attributes:
        thresholds: of the stages but the last.
        cost: mean over the images, in the unit of the stages' costs.
        expected: drop of accuracy, a fraction, never negative.
        observed: drop of accuracy, a fraction.
    """

    thresholds: tuple[float, ...]
    cost: float
    expected: float
    observed: float


def candidates(signal: Signal, disputed: Mask, possible: Mask, certain: Mask, bound: float, most: int) -> Array:
    """Return the thresholds of a stage that are worth trying, falling, at least one.

    Each is half-way between the confidence of a disputed image and that of the next surer image; the last is the
    smallest confidence, with which all leave.

    Args:
        signal: of the stage, N images.
        disputed: those whose leaving may cost accuracy, `[N]`: all where it `differs`, and perhaps others.
        possible: those that reach the stage under some thresholds of the stages before, `[N]`.
        certain: those that reach it under all of them, `[N]`.
        bound: on the sum of `expected` over images that leave; a threshold under which those that are certain exceed it
            is left out.
        most: thresholds to return; of more, some are left out evenly.
    """
    values = signal.values
    stops = np.unique(signal.confidence[disputed & possible])[::-1]
    stops = stops[stops < values[-1]]
    above = values[np.searchsorted(values, stops, side="right")]
    middle = (stops + above) / 2
    found = np.append(np.where(middle > stops, middle, above), values[0])
    costly = np.flatnonzero(signal.differs & certain)
    costly = costly[np.argsort(-signal.confidence[costly])]
    leaving = np.searchsorted(-signal.confidence[costly], -found, side="right")
    losses = np.append(0, np.cumsum(signal.expected[costly]))[leaving]
    kept = found[losses <= bound + _SLACK]
    if not len(kept):  # the surest images of all are in dispute
        return values[-1:]
    if len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).astype(np.intp)]
    return np.asarray(kept, np.float64)


def best_thresholds(
    signals: Sequence[Signal], costs: Sequence[float], *, expected: float, observed: float
) -> Choice | None:
    """Return the thresholds of least cost within two bounds on the drop of accuracy, or None if there are none.

    Args:
        signals: of the S stages but the last, S from 1 to 3.
        costs: what each of the S + 1 stages adds for an image that reaches it.
        expected: bound on the expected drop, a fraction.
        observed: bound on the observed drop, a fraction.
    """
    images, depth = len(signals[0].top), len(signals)
    tried: list[Array] = []
    possible, certain = np.ones(images, bool), np.ones(images, bool)
    for stage, s in enumerate(signals):
        disputed = np.logical_or.reduce([s.differs, *(later.lost < 0 for later in signals[stage + 1 :])])
        tried.append(candidates(s, disputed, possible, certain, expected * images, _ROOM[depth]))
        possible, certain = possible & (s.confidence < tried[-1][0]), certain & (s.confidence < tried[-1][-1])
    # Of each image the first threshold that lets it leave; one beyond the last if none does.
    first = [np.searchsorted(-t, -s.confidence, side="left") for t, s in zip(tried, signals, strict=True)]
    cost: Array = np.full((1,) * depth, float(costs[0]))
    expects: Array = np.zeros((1,) * depth)
    loses: Array = np.zeros((1,) * depth)
    for stage, signal in enumerate(signals):
        shape = tuple(len(t) + 1 for t in tried[: stage + 1])
        cells = np.ravel_multi_index(tuple(first[: stage + 1]), shape)
        rest = (slice(None),) * (stage + 1) + (None,) * (depth - stage - 1)
        leaving = [_leaving(cells, shape, values) for values in (None, signal.expected, signal.lost)]
        cost = cost + costs[stage + 1] * (leaving[0][..., -1:] - leaving[0])[..., :-1][rest] / images
        expects = expects + leaving[1][..., :-1][rest]
        loses = loses + leaving[2][..., :-1][rest]
    within = (expects <= expected * images + _SLACK) & (loses <= observed * images + _SLACK)
    if not within.any():
        return None
    place = np.unravel_index(int(np.where(within, cost, np.inf).argmin()), cost.shape)
    chosen = tuple(float(t[i]) for t, i in zip(tried, place, strict=True))
    return Choice(chosen, float(cost[place]), max(0.0, float(expects[place]) / images), float(loses[place]) / images)


def _leaving(cells: npt.NDArray[np.intp], shape: tuple[int, ...], values: npt.NDArray[np.generic] | None) -> Array:
    """Sum values over the images that leave at a stage, for all thresholds of it and of the stages before.

    Args:
        cells: of each image the first threshold of each of the stages that lets it leave, as one number.
        shape: thresholds of each of the stages, and one.
        values: of the images; None counts them.

    Returns:
        `shape` less one in each axis but the last, whose last place holds all that reach the stage.
    """
    table: Array = np.bincount(cells, values, math.prod(shape)).reshape(shape).astype(np.float64)
    for axis in range(table.ndim - 1):  # those that stay: the thresholds that let them leave come later
        stay = np.flip(np.flip(table, axis).cumsum(axis), axis)
        table = np.take(stay, np.arange(1, stay.shape[axis]), axis)
    return np.asarray(table.cumsum(-1))
