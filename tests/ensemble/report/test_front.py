"""The front and the choice, held to the definition."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.report.front import MILLISECONDS, MULTIPLY_ADDS, choose, cost, front, missed, ranking
from ensemble.report.record import Budget, Record

small = st.integers(0, 6).map(float)
PAIRS = st.lists(st.tuples(st.one_of(st.none(), small), small), max_size=12)


@given(PAIRS)
def test_the_front_is_what_nothing_beats(values: list[tuple[float | None, float]]) -> None:
    def beaten(i: int) -> bool:
        mine, accuracy = values[i]
        return mine is None or any(
            other is not None and other <= mine and better >= accuracy and (other < mine or better > accuracy)
            for other, better in values
        )

    assert front(values) == [not beaten(i) for i in range(len(values))]


def test_the_cheapest_come_first_and_those_without_a_cost_last(record: Callable[..., Record]) -> None:
    points = list(record().points)
    points[3] = replace(points[3], latency=None)
    order = ranking(points, MILLISECONDS)
    assert order[-1] == 3
    costs = [cost(points[i], MILLISECONDS) or 0 for i in order[:-1]]
    assert costs == sorted(costs)


@pytest.mark.parametrize("unit", [MILLISECONDS, MULTIPLY_ADDS])
def test_the_choice_is_the_best_on_validation_that_is_affordable(record: Callable[..., Record], unit: str) -> None:
    points = record().points
    limit = sorted(cost(p, unit) or 0 for p in points)[5]
    chosen = choose(points, Budget(limit, unit))
    assert chosen is not None
    affordable = [p for p in points if (cost(p, unit) or 0) <= limit]
    assert points[chosen].val_accuracy == max(p.val_accuracy or 0 for p in affordable)
    assert len(affordable) == 6
    assert choose(points, Budget(1e-6, unit)) is None


def test_scores_on_the_reported_split_choose_nothing(record: Callable[..., Record]) -> None:
    points = record().points
    flattered = [replace(p, scores=replace(p.scores, accuracy=1.0 - p.scores.accuracy)) for p in points]
    budget = Budget(4.0, MILLISECONDS)
    assert choose(points, budget) == choose(flattered, budget)
    unknown = [replace(p, val_accuracy=None) for p in points]
    assert choose(unknown, budget) is None


def test_why_nothing_is_chosen(record: Callable[..., Record]) -> None:
    points = [replace(p, val_accuracy=None) for p in record().points]
    assert missed(points, Budget(1e-6, MILLISECONDS)) == "no point is within the budget of 1e-06 ms"
    assert (
        missed(points, Budget(9, MILLISECONDS))
        == "no point whose validation accuracy is known is within the budget of 9 ms"
    )


def test_ties_go_to_the_smaller_loss_and_then_to_the_smaller_cost(record: Callable[..., Record]) -> None:
    a = replace(record().points[0], val_accuracy=0.9, val_nll=0.5)
    slower = replace(a, latency=replace(a.latency, median_ms=9.0)) if a.latency else a
    budget = Budget(100.0, MILLISECONDS)
    assert choose([slower, a], budget) == 1
    assert choose([a, replace(slower, val_nll=0.4)], budget) == 1
    assert choose([replace(a, val_nll=None), slower], budget) == 1
