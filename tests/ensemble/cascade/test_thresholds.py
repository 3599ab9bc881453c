"""Thresholds against a search that tries every confidence there is, one image after another."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensemble.cascade import thresholds
from ensemble.cascade.thresholds import Choice, Signal, best_thresholds, candidates


def signals(stages: int, images: int, seed: int) -> list[Signal]:
    """Stages that are more and more often right about what the whole says; confidences are tied now and then."""
    rng = np.random.default_rng(seed)
    hard = rng.random(images)
    found = []
    for stage in range(stages):
        confidence = np.round(np.clip(1 - 0.6 * hard + 0.15 * rng.standard_normal(images), 0.2, 1), 2).astype(float)
        differs = rng.random(images) < (1 - confidence) / (stage + 1.5)
        expected = np.where(differs, rng.random(images), 0)
        lost = np.where(differs, rng.integers(-1, 2, images), 0)
        found.append(Signal(differs.astype(np.intp), confidence, expected, lost, differs))
    return found


def outcome(some: Sequence[Signal], cuts: Sequence[float], costs: Sequence[float]) -> tuple[float, float, float]:
    """Cost, expected and observed drop with these thresholds: a plain loop over the images."""
    images = len(some[0].top)
    cost = expected = lost = 0.0
    for i in range(images):
        for stage, price in enumerate(costs):
            cost += price
            if stage < len(some) and some[stage].confidence[i] >= cuts[stage]:
                expected += some[stage].expected[i]
                lost += some[stage].lost[i]
                break
    return cost / images, expected / images, lost / images


def brute(some: Sequence[Signal], costs: Sequence[float], expected: float, observed: float) -> float:
    """Return the least cost over all thresholds that are different in effect."""
    best = np.inf
    for cuts in itertools.product(*(np.unique(s.confidence).tolist() for s in some)):
        cost, expects, loses = outcome(some, cuts, costs)
        if expects <= expected + 1e-12 and loses <= observed + 1e-12:
            best = min(best, cost)
    return best


def check(some: Sequence[Signal], costs: Sequence[float], expected: float, observed: float) -> Choice | None:
    choice = best_thresholds(some, costs, expected=expected, observed=observed)
    least = brute(some, costs, expected, observed)
    if choice is None:
        assert least == np.inf
        return None
    assert choice.cost == pytest.approx(least, abs=1e-9)
    assert (choice.cost, choice.expected, choice.observed) == pytest.approx(
        outcome(some, choice.thresholds, costs), abs=1e-9
    )
    assert choice.expected <= expected + 1e-9
    assert choice.observed <= observed + 1e-9
    assert all(0 < t <= 1 for t in choice.thresholds)
    return choice


@settings(max_examples=60)
@given(st.integers(1, 2), st.integers(1, 30), st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.05, 0.2, 1.0]))
@example(2, 29, 1985, 0.2)  # what would be won back at the second stage keeps images in the first
def test_it_is_the_cheapest_that_there_is(stages: int, images: int, seed: int, expected: float) -> None:
    check(signals(stages, images, seed), (1.0, 2.0, 7.0)[: stages + 1], expected, 0.05)


@pytest.mark.parametrize("seed", range(4))
def test_three_together(seed: int) -> None:
    found = check(signals(3, 18, seed), (1.0, 1.5, 3.0, 5.0), 0.04, 0.06)
    assert found is None or len(found.thresholds) == 3


def test_one_after_the_other_would_be_dearer() -> None:
    together, apart = 0.0, 0.0
    costs = (1.0, 1.0, 8.0)
    for seed in range(6):
        some = signals(2, 300, seed)
        choice = best_thresholds(some, costs, expected=0.03, observed=0.03)
        first = best_thresholds(some[:1], (1.0, 9.0), expected=0.03, observed=0.03)
        assert choice is not None
        assert first is not None
        # All of the drop spent on the first stage, what is left of it on the second.
        rest = [
            cut
            for cut in (*np.unique(some[1].confidence), 2.0)  # or none leaves
            if max(outcome(some, (first.thresholds[0], cut), costs)[1:]) <= 0.03
        ]
        apart += min(outcome(some, (first.thresholds[0], cut), costs)[0] for cut in rest)
        together += choice.cost
    assert together < apart


def test_nothing_may_be_lost() -> None:
    (some,) = signals(1, 200, 1)
    choice = best_thresholds([some], (1.0, 9.0), expected=0.0, observed=0.0)
    assert choice is not None
    leave = some.confidence >= choice.thresholds[0]
    assert leave.any()
    assert not some.expected[leave].any()
    # It stands half-way between the surest image in dispute and the next surer one.
    stop = some.confidence[some.differs].max()
    assert choice.thresholds[0] == (stop + np.unique(some.confidence[some.confidence > stop])[0]) / 2


def test_the_surest_image_in_dispute_leaves_no_choice() -> None:
    rows = np.arange(3)
    some = Signal(rows, np.array([0.9, 0.5, 0.4]), np.array([0.5, 0, 0]), np.array([1, 0, 0]), rows == 0)
    assert best_thresholds([some], (1.0, 9.0), expected=0.0, observed=0.0) is None
    found = best_thresholds([some], (1.0, 9.0), expected=0.2, observed=0.4)
    assert found is not None
    assert (found.thresholds, found.cost) == ((0.4,), 1.0)


def test_neighbouring_numbers_have_nothing_between_them() -> None:
    low = 0.75
    high = np.nextafter(low, 1)
    rows = np.arange(2)
    some = Signal(rows, np.array([high, low]), np.array([0, 0.9]), np.array([0, 1]), rows == 1)
    found = best_thresholds([some], (1.0, 1.0), expected=0.1, observed=0.0)
    assert found is not None
    assert found.thresholds == (high,)


def test_more_candidates_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    some = signals(2, 400, 3)
    exact = best_thresholds(some, (1.0, 2.0, 7.0), expected=0.05, observed=0.05)
    monkeypatch.setattr(thresholds, "_ROOM", {2: 8})
    rough = best_thresholds(some, (1.0, 2.0, 7.0), expected=0.05, observed=0.05)
    assert exact is not None
    assert rough is not None
    assert exact.cost < rough.cost < 1.5 * exact.cost
    assert rough.expected <= 0.05


def all_of(images: int) -> npt.NDArray[np.bool_]:
    return np.ones(images, bool)


def test_candidates_fall_and_end_with_all_who_may_leave() -> None:
    (some,) = signals(1, 100, 4)
    found = candidates(some, some.differs, all_of(100), all_of(100), 1e9, 1000)
    assert (np.diff(found) < 0).all()
    assert found[-1] == some.confidence.min()
    stops = np.unique(some.confidence[some.differs])
    assert len(found) == len(stops[stops < some.confidence.max()]) + 1
    few = candidates(some, some.differs, all_of(100), all_of(100), 1e9, 5)
    assert len(few) == 5
    assert {few[0], few[-1]} == {found[0], found[-1]}
    tight = candidates(some, some.differs, all_of(100), all_of(100), 0.5, 1000)
    assert tight.tolist() == found[: len(tight)].tolist()
    assert some.expected[some.confidence >= tight[-1]].sum() <= 0.5 < some.expected.sum()
