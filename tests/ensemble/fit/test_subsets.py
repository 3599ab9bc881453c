"""Every subset, held to loops over combinations."""

from itertools import combinations

import numpy as np
import pytest

from ensemble.fit.limits import Limits
from ensemble.fit.objective import Features, Objective, features
from ensemble.fit.pool import Pool
from ensemble.fit.subsets import LARGEST, best_subset, score_subsets
from ensemble.merge import Vote, merge
from ensemble.metrics import nll

FREE = Limits(np.zeros(9))


def subsets(members: int) -> list[tuple[int, ...]]:
    return [c for size in range(1, members + 1) for c in combinations(range(members), size)]


def slow_loss(of: Features, chosen: tuple[int, ...]) -> float:
    return float(-np.log(of[list(chosen), 0].astype(np.float64).mean(0)).mean())


@pytest.mark.parametrize("members", [1, 2, 5, 6, 7, 9])
def test_every_subset_scores_as_its_mean(contributions: Features, members: int) -> None:
    scores = score_subsets(contributions[:members])
    assert scores.shape == (2**members,)
    assert scores[0] == np.inf
    for chosen in subsets(members):
        index = sum(1 << bit for bit in chosen)
        assert scores[index] == pytest.approx(slow_loss(contributions, chosen), abs=1e-6)


@pytest.mark.parametrize("objective", ["nll", "accuracy"])
def test_the_best_is_brute_forces_by_the_evaluations_own_code(pool: Pool, objective: Objective) -> None:
    def measure(chosen: tuple[int, ...]) -> tuple[float, float]:
        votes = [Vote(pool.logits[m].transpose(0, 2, 1), [0.5, 0.5]) for m in chosen]
        probs, top = merge(votes, "probs")
        wrong = int((top != pool.labels).sum()) if objective == "accuracy" else 0
        return wrong, nll(probs, pool.labels)

    of = features(pool, "flip", np.ones(7), objective)
    found = best_subset(of, Limits(np.zeros(7)))
    best = min(subsets(7), key=measure)
    assert measure(found)[0] == measure(best)[0]
    assert measure(found)[1] == pytest.approx(measure(best)[1], abs=1e-6)


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("budget", [None, 2.0, 7.5])
def test_limits_hold_and_leave_the_best_of_what_they_allow(
    contributions: Features, most: int, budget: float | None
) -> None:
    costs = np.random.default_rng(0).integers(1, 5, 9).astype(float)
    allowed = [c for c in subsets(9) if len(c) <= most and (budget is None or costs[list(c)].sum() <= budget)]
    found = best_subset(contributions, Limits(costs, budget, most))
    assert found in allowed
    best = min(slow_loss(contributions, c) for c in allowed)
    assert slow_loss(contributions, found) == pytest.approx(best, abs=1e-6)


def test_of_equals_the_smallest_and_then_the_first(contributions: Features) -> None:
    same = np.repeat(contributions[:1], 4, 0)
    assert best_subset(same, Limits(np.zeros(4))) == (0,)


def test_too_many_candidates_and_none_that_fits_are_refused(contributions: Features) -> None:
    with pytest.raises(ValueError, match="21 candidates"):
        best_subset(np.ones((LARGEST + 1, 1, 1), np.float32), Limits(np.zeros(LARGEST + 1)))
    with pytest.raises(ValueError, match="0 affordable"):
        best_subset(contributions, Limits(np.ones(9), 0.5))
