"""What a committee may cost."""

import numpy as np
import pytest

from ensemble.fit.limits import Limits

COSTS = np.array([1.0, 2.0, 3.0, 0.5])


def test_costs_count_each_member_once() -> None:
    assert Limits(COSTS).cost((0, 2, 2, 2)) == 4.0
    assert Limits(COSTS).cost(()) == 0.0


@pytest.mark.parametrize(
    ("budget", "most", "members", "addable"),
    [
        (None, None, (), [0, 1, 2, 3]),
        (2.0, None, (), [0, 1, 3]),
        (3.5, None, (2,), [2, 3]),
        (3.5, None, (2, 3), [2, 3]),
        (None, 2, (0, 0), [0, 1, 2, 3]),
        (None, 2, (0, 1), [0, 1]),
        (3.0, 2, (0,), [0, 1, 3]),
    ],
)
def test_what_may_be_added(
    budget: float | None, most: int | None, members: tuple[int, ...], addable: list[int]
) -> None:
    assert np.flatnonzero(Limits(COSTS, budget, most).addable(members)).tolist() == addable


def test_sums_that_meet_the_budget_but_for_rounding_fit() -> None:
    limits = Limits(np.array([0.1, 0.1, 0.1]), 0.3)
    assert limits.addable((0, 1)).all()
    assert limits.affordable.tolist() == [0, 1, 2]
    assert Limits(COSTS, 0.9).affordable.tolist() == [3]
