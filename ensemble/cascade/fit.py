"""The cascade of a committee, fitted on the validation split so that its drop of accuracy holds on other images too.

Stages and thresholds are chosen for the validation images, so on those the drop is smaller than on any others. By how
much is measured: everything is fitted anew with four fifths of the images, and the expected drop is counted on the
fifth, in turn. The bound on the expected drop is tightened until the drop on images that were not fitted on is within
what is allowed; then the cascade is fitted on all of them under that bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.cascade.chains import Chain, best_chain
from ensemble.cascade.evidence import Evidence
from ensemble.cascade.stages import Stage
from ensemble.cascade.thresholds import MOST_STAGES
from ensemble.lockfile import Committee

__all__ = ["CascadeFit", "HeldOut", "divide", "fit_cascade", "held_out", "stages"]

_FOLDS = 5
_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.0)  # of the allowed drop, as the bound on the expected


@dataclass(frozen=True)
class HeldOut:
    """What cascades do on images that they were not fitted on, against the whole committee; all are fractions.

    Attributes:
        expected: drop of accuracy, by the whole committee's probabilities.
        observed: drop of accuracy, as counted.
        agreement: of images with the same class.
        cost: share of the whole committee's.
    """

    expected: float
    observed: float
    agreement: float
    cost: float


@dataclass(frozen=True)
class CascadeFit:
    """A fitted cascade.

    Attributes:
        chain: stages and thresholds, with what they cost on the images they were fitted on.
        bound: on the expected drop, that was set so that it holds on others.
        held_out: of cascades fitted under this bound, by cross-validation; None if there are too few images to divide.
    """

    chain: Chain
    bound: float
    held_out: HeldOut | None


def fit_cascade(evidence: Evidence, allowed: float, most: int = MOST_STAGES) -> CascadeFit | None:
    """Fit a cascade, or return None if no cascade is cheaper than the committee within the allowed drop.

    Args:
        evidence: of the whole validation split.
        allowed: drop of accuracy, a fraction: a bound on what is observed on the validation split, and on what is
            expected on other images. If even the tightest bound does not hold there, it is the one that is taken.
        most: stages, from 2 to `MOST_STAGES`.
    """
    enough = len(evidence.labels) >= 2 * _FOLDS
    halves = divide(evidence) if enough else []
    low, high = 0 if enough else len(_SHARES) - 1, len(_SHARES) - 1
    measured: dict[int, HeldOut] = {}
    while low < high:  # for the first share that holds, or else the last
        middle = (low + high) // 2
        measured[middle] = held_out(halves, _SHARES[middle] * allowed, allowed, most)
        low, high = (low, middle) if measured[middle].expected <= allowed else (middle + 1, high)
    bound = _SHARES[low] * allowed
    if enough and low not in measured:
        measured[low] = held_out(halves, bound, allowed, most)
    chain = best_chain(evidence, expected=bound, observed=allowed, most=most)
    return None if chain is None else CascadeFit(chain, bound, measured.get(low))


def divide(evidence: Evidence) -> list[tuple[Evidence, Evidence]]:
    """Return the evidence without each fifth of the images, and on that fifth."""
    folds = np.arange(len(evidence.labels)) % _FOLDS
    return [(evidence.rows(folds != fold), evidence.rows(folds == fold)) for fold in range(_FOLDS)]


def held_out(halves: Sequence[tuple[Evidence, Evidence]], bound: float, allowed: float, most: int) -> HeldOut:
    """Measure cascades on images that they were not fitted on.

    Args:
        halves: pairs of what to fit on and what to measure on.
        bound: on the expected drop of each fit.
        allowed: bound on the observed drop of each fit.
        most: stages.
    """
    totals = np.zeros(4)
    for inside, outside in halves:
        totals += _measure(inside, outside, best_chain(inside, expected=bound, observed=allowed, most=most))
    whole = halves[0][1]
    expected, observed, same, cost = (totals / sum(len(outside.labels) for _, outside in halves)).tolist()
    return HeldOut(expected, observed, same, cost / whole.cost(whole.whole))


def _measure(inside: Evidence, outside: Evidence, chain: Chain | None) -> npt.NDArray[np.float64]:
    """Sum expected and observed drop, equal classes and cost of a chain over images that it was not fitted on."""
    totals = np.zeros(4)
    left = np.ones(len(outside.labels), bool)
    if chain is None:
        return np.array([0, 0, len(left), outside.cost(outside.whole) * len(left)])
    costs = np.cumsum(outside.added_costs(chain.shapes))
    for shape, threshold, cost in zip(chain.shapes, chain.choice.thresholds, costs, strict=False):
        said = outside.signal(shape, inside.fitted(shape)[0])
        leave = left & (said.confidence >= threshold)
        parts = (said.expected, said.lost, ~said.differs)
        totals += [*(part[leave].sum() for part in parts), cost * leave.sum()]
        left &= ~leave
    totals += [0, 0, left.sum(), costs[-1] * left.sum()]
    return totals


def stages(committee: Committee, evidence: Evidence, chain: Chain) -> tuple[Stage, ...]:
    """Return the stages of a fitted cascade as the lockfile has them.

    Args:
        committee: whose cascade it is.
        evidence: that it was fitted on.
        chain: fitted.
    """
    names = [member.name for member in committee.members]
    found = [
        Stage(tuple(names[m] for m in shape[0]), shape[1], evidence.fitted(shape)[0], threshold)
        for shape, threshold in zip(chain.shapes, chain.choice.thresholds, strict=False)
    ]
    last = tuple(names[m] for m in chain.shapes[-1][0])
    return (*found, Stage(last, committee.views, committee.temperature, 0.0))
