"""The cascade of a committee, fitted on the validation split so that its drop of accuracy holds on other images too.

Stages and thresholds are chosen for the validation images, so on those the drop is smaller than on any others. By how
much is measured by cross-validation: stages, thresholds and all their temperatures, the whole committee's too, are
fitted anew with four fifths of the images, and the expected drop is counted on the fifth, in turn. What the committee
came with, its members' weights and temperatures, stays as it is. Of ten bounds on the expected drop of a fit, the
loosest is taken under which the cross-validated drop is within what is allowed, and the cascade is fitted on all
images under it. It must be so by the committee's own probabilities and as counted: the former are less noisy, and
only as right as the committee is calibrated. So the numbers have chosen the bound, and flatter it: on new images, a
little more is to be expected.
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

    The errors are standard errors of means over images; that the fits have images in common is not in them.

    Attributes:
        expected: drop of accuracy, by the whole committee's probabilities.
        expected_error: its standard error.
        observed: drop of accuracy, as counted.
        observed_error: its standard error.
        agreement: of images with the same class.
        cost: share of the whole committee's.
    """

    expected: float
    expected_error: float
    observed: float
    observed_error: float
    agreement: float
    cost: float

    @property
    def drop(self) -> float:
        """The larger of the two drops."""
        return max(self.expected, self.observed)


@dataclass(frozen=True)
class CascadeFit:
    """A fitted cascade.

    Attributes:
        chain: stages and thresholds, with what they cost on the images they were fitted on.
        bound: on the expected drop, that was set so that the allowed one holds on others; 0 if none holds it.
        held_out: of cascades fitted under this bound, by cross-validation, which chose it; None if there are too few
            images to divide.
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
    bound, found = 0.0, None
    if len(evidence.labels) >= 2 * _FOLDS:
        halves = divide(evidence)
        # One after the other, the loosest first: what is cross-validated need not fall with the bound.
        for bound in dict.fromkeys(share * allowed for share in _SHARES):
            found = held_out(halves, bound, allowed, most)
            if found.drop <= allowed:
                break
    chain = best_chain(evidence, expected=bound, observed=allowed, most=most)
    return None if chain is None else CascadeFit(chain, bound, found)


def divide(evidence: Evidence) -> list[tuple[Evidence, Evidence]]:
    """Return the evidence without each fifth of the images, and on that fifth, both calibrated on the former."""
    folds = np.arange(len(evidence.labels)) % _FOLDS
    halves = []
    for fold in range(_FOLDS):
        inside = evidence.rows(folds != fold).recalibrated()
        halves.append((inside, evidence.rows(folds == fold).recalibrated(inside.temperature)))
    return halves


def held_out(halves: Sequence[tuple[Evidence, Evidence]], bound: float, allowed: float, most: int) -> HeldOut:
    """Measure cascades on images that they were not fitted on.

    Args:
        halves: pairs of what to fit on and what to measure on.
        bound: on the expected drop of each fit.
        allowed: bound on the observed drop of each fit.
        most: stages.
    """
    measured = [
        _measure(inside, outside, best_chain(inside, expected=bound, observed=allowed, most=most))
        for inside, outside in halves
    ]
    each = np.concatenate(measured, 1)
    expected, observed, same, cost = each.mean(1).tolist()
    errors = (each.std(1, ddof=1) / np.sqrt(each.shape[1])).tolist()
    whole = halves[0][1]
    return HeldOut(expected, errors[0], observed, errors[1], same, cost / whole.cost(whole.whole))


def _measure(inside: Evidence, outside: Evidence, chain: Chain | None) -> npt.NDArray[np.float64]:
    """Return expected and observed drop, whether classes are equal, and cost, `[4, N]`, of N images.

    Args:
        inside: what the chain was fitted on.
        outside: what it was not fitted on, of N images.
        chain: fitted; without one, the whole committee answers.
    """
    each = np.zeros((4, len(outside.labels)))
    each[2], each[3] = 1, outside.cost(outside.whole)  # of those that stay to the end
    if chain is None:
        return each
    left = np.ones(len(outside.labels), bool)
    costs = np.cumsum(outside.added_costs(chain.shapes))
    for shape, threshold, cost in zip(chain.shapes, chain.choice.thresholds, costs, strict=False):
        said = outside.signal(shape, inside.fitted(shape)[0])
        leave = left & (said.confidence >= threshold)
        each[:, leave] = np.stack([said.expected, said.lost, ~said.differs, np.full(len(leave), cost)])[:, leave]
        left &= ~leave
    return each


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
