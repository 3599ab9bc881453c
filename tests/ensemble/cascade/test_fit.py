"""Fitted cascades: within the allowed drop, on the images at hand and on others."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar

from ensemble.cascade import fit
from ensemble.cascade.chains import best_chain
from ensemble.cascade.fit import HeldOut, divide, fit_cascade, held_out, stages
from ensemble.cascade.stages import check_stages
from ensemble.cascade.stored import stored_exits
from ensemble.evaluate import Ballots
from ensemble.merge import Vote, merge
from tests.ensemble.cascade.conftest import MadeUp

Make = Callable[..., MadeUp]


def rows(ballots: Ballots, images: slice) -> Ballots:
    votes = [Vote(v.logits[:, images], v.view_weights, v.weight, v.temperature) for v in ballots.votes]
    return Ballots(votes, ballots.labels[images])


def lost(made: MadeUp, ballots: Ballots) -> tuple[float, float]:
    """Accuracy lost by a made-up committee's cascade, as counted, and the share of images that leave early."""
    exits = stored_exits(made.committee, ballots.votes)
    top = merge(ballots.votes, "probs")[1]
    right = [(answer == ballots.labels).mean() for answer in (top, exits.top)]
    return float(right[0] - right[1]), float((exits.stage < len(made.committee.cascade) - 1).mean())


def test_the_drop_holds_on_images_that_were_not_fitted_on(make: Make) -> None:
    drops, tight = [], []
    for seed in range(4):
        made = make(4, 8000, seed=seed)
        fitting = replace(made, ballots=rows(made.ballots, slice(1500)))
        evidence = fitting.evidence
        found = fit_cascade(evidence, 0.004, 3)
        assert found is not None
        assert found.held_out is not None
        assert found.held_out.expected <= 0.004
        assert found.chain.choice.observed <= 0.004
        assert found.chain.choice.expected <= found.bound <= 0.004
        committee = replace(made.committee, cascade=stages(made.committee, evidence, found.chain))
        check_stages(committee.cascade, [m.name for m in committee.members], "flip", "probs", 1.1)
        other = replace(made, committee=committee)
        drop, early = lost(other, rows(made.ballots, slice(1500, None)))
        assert early > 0.3
        drops.append(drop)
        tight.append(found.bound < 0.004)
    assert np.mean(drops) < 0.004
    assert any(tight)  # what is fitted to the images would not have held


def test_costs_and_drops_are_those_of_the_stored_answers(make: Make) -> None:
    made = make(4, 800)
    evidence = made.evidence
    found = fit_cascade(evidence, 0.01)
    assert found is not None
    committee = replace(made.committee, cascade=stages(made.committee, evidence, found.chain))
    exits = stored_exits(committee, made.ballots.votes)
    totals = np.cumsum(evidence.added_costs(found.chain.shapes))
    assert found.chain.choice.cost == pytest.approx(totals[exits.stage].mean())
    top = merge(made.ballots.votes, "probs")[1]
    gap = (top == made.ballots.labels).mean() - (exits.top == made.ballots.labels).mean()
    assert found.chain.choice.observed == pytest.approx(gap)
    wanted = evidence.target.max(1) - evidence.target[np.arange(800), exits.top]
    assert found.chain.choice.expected == pytest.approx(wanted.mean())


def best_temperature(made: MadeUp, images: npt.NDArray[np.intp]) -> float:
    """The whole committee's temperature of least log-loss on some images, by scipy."""
    votes, labels = made.ballots.votes, made.ballots.labels[images]

    def loss(temperature: float) -> float:
        said = merge(votes, made.committee.merge, temperature)[0][images]
        return float(-np.log(said[np.arange(len(images)), labels]).mean())

    found = minimize_scalar(loss, bounds=(0.1, 5), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


@pytest.mark.parametrize("bound", [0.002, 0.0])
def test_cross_validation_is_a_loop_over_the_folds(make: Make, bound: float) -> None:
    made = make(3, 400)
    evidence = made.evidence
    found = held_out(divide(evidence), bound, 0.01, 3)
    each = np.zeros((4, 400))
    temperatures = set()
    for fold in range(5):
        outside = np.flatnonzero(np.arange(400) % 5 == fold)
        others = np.setdiff1d(np.arange(400), outside)
        inside = evidence.rows(others).recalibrated()
        # What is expected is what the fitting images say of the committee, and nothing that the others do.
        assert inside.temperature == pytest.approx(best_temperature(made, others), rel=2e-3)
        temperatures.add(inside.temperature)
        chain = best_chain(inside, expected=bound, observed=0.01, most=3)
        assert chain is not None
        for i in outside:
            one = evidence.rows(np.array([i])).recalibrated(inside.temperature)
            for shape, cut in zip(chain.shapes, (*chain.choice.thresholds, 0.0), strict=True):
                said = one.signal(shape, inside.fitted(shape)[0])
                if said.confidence[0] >= cut:
                    each[:, i] = said.expected[0], said.lost[0], not said.differs[0], evidence.cost(shape)
                    break
    assert len(temperatures) == 5
    errors = np.sqrt(((each - each.mean(1, keepdims=True)) ** 2).sum(1) / 399 / 400)
    assert (found.expected, found.expected_error) == pytest.approx((each[0].mean(), errors[0]))
    assert (found.observed, found.observed_error) == pytest.approx((each[1].mean(), errors[1]))
    assert found.expected_error > 0
    assert found.agreement == pytest.approx(each[2].mean())
    assert found.cost == pytest.approx(each[3].mean() / evidence.cost(evidence.whole))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("holds", "chosen"),
    [({0}, 0), ({2, 3, 7}, 2), ({4, 8, 9}, 4), ({6}, 6), ({9}, 9), (set(), 9)],
)
def test_the_loosest_bound_that_holds_is_taken_whatever_tighter_ones_do(
    make: Make, monkeypatch: pytest.MonkeyPatch, holds: set[int], chosen: int, counted: bool
) -> None:
    allowed, tried = 0.01, [share * 0.01 for share in fit._SHARES]

    def measured(halves: object, bound: float, allowed: float, most: int) -> HeldOut:
        del halves, most
        drop = allowed if tried.index(bound) in holds else 1.5 * allowed
        expected, observed = (0.0, drop) if counted else (drop, -0.01)
        return HeldOut(expected, bound, observed, 0.0, 1.0, 0.5)

    monkeypatch.setattr(fit, "held_out", measured)
    found = fit_cascade(make(2, 60).evidence, allowed, 2)
    assert found is not None
    assert found.held_out is not None
    assert found.bound == found.held_out.expected_error == tried[chosen]  # what was measured is of this bound


def test_more_may_be_lost_for_less(make: Make) -> None:
    evidence = make(4, 1000).evidence
    costs = []
    for allowed in (0.0, 0.005, 0.05):
        found = fit_cascade(evidence, allowed, 3)
        costs.append(evidence.cost(evidence.whole) if found is None else found.chain.choice.cost)
    assert costs[0] > costs[1] > costs[2]


def test_few_images_get_the_strictest_thresholds_and_no_estimate(make: Make) -> None:
    found = fit_cascade(make(2, 9).evidence, 0.5)
    assert found is not None
    assert (found.bound, found.held_out, found.chain.choice.expected) == (0, None, 0)


def test_no_cascade_of_one_view_of_one_member(make: Make) -> None:
    assert fit_cascade(make(1, 100, views="none").evidence, 0.5) is None


def test_the_same_again(make: Make) -> None:
    evidence = make(3, 200).evidence
    assert fit_cascade(evidence, 0.01) == fit_cascade(make(3, 200).evidence, 0.01)
