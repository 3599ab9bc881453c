"""Intervals against SciPy's own test, published sample sizes and simulated experiments."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.statistics import Paired, paired_interval, runs_to_show, spread, verdict
from zoo.errors import UsageError

ACCURACY = st.floats(0.1, 0.99)


def test_spread_of_a_hand_worked_example() -> None:
    found = spread([0.90, 0.92, 0.97])
    assert found.n == 3
    assert found.mean == pytest.approx(0.93)
    assert found.std == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert spread([0.9]).std is None
    with pytest.raises(UsageError, match="at least one value"):
        spread([])


def test_a_textbook_example() -> None:
    """Student's own (1908): extra hours of sleep of ten patients on two drugs; t = 4.06, interval 0.70 to 2.46."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_interval(first, second)
    assert (found.n, found.real) == (10, True)
    assert found.mean == pytest.approx(1.58)
    assert found.interval == pytest.approx((0.700, 2.460), abs=5e-4)
    assert found.mean / (found.std / math.sqrt(10)) == pytest.approx(4.0621, abs=1e-4)


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=12), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_are_those_of_scipys_paired_test(pairs: list[tuple[float, float]], level: float) -> None:
    first, second = ([pair[i] for pair in pairs] for i in range(2))
    found = paired_interval(first, second, level)
    if found.interval is None:
        assert np.ptp(np.subtract(second, first)) < 1e-11
        return
    test = stats.ttest_rel(second, first)
    low, high = test.confidence_interval(level)
    assert found.interval == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    if abs(test.pvalue - (1 - level)) > 1e-6:
        assert found.real == (test.pvalue < 1 - level), "the interval leaves zero out where the test rejects"


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=8))
def test_swapping_the_recipes_mirrors_the_interval(pairs: list[tuple[float, float]]) -> None:
    first, second = ([pair[i] for pair in pairs] for i in range(2))
    there, back = paired_interval(first, second), paired_interval(second, first)
    assert back.mean == pytest.approx(-there.mean)
    assert (back.interval is None) == (there.interval is None)
    if there.interval and back.interval:
        assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))


def test_ninety_five_in_a_hundred_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        seeds = rng.normal(0.93, 0.01, 5)  # what a seed does to both recipes
        found = paired_interval(list(seeds), list(seeds + rng.normal(0.002, 0.0015, 5)))
        assert found.interval is not None
        held += found.interval[0] <= 0.002 <= found.interval[1]
    assert held == pytest.approx(950, abs=25)


@pytest.mark.parametrize(
    ("first", "second", "level"),
    [
        ([0.9], [0.91], 0.95),
        ([0.9, 0.9], [0.91], 0.95),
        ([0.9, math.nan], [0.9, 0.9], 0.95),
        ([0.9, 0.8], [0.91, 0.9], 1.0),
    ],
)
def test_what_gives_no_interval_is_refused(first: list[float], second: list[float], level: float) -> None:
    with pytest.raises(UsageError):
        paired_interval(first, second, level)


def test_equal_differences_give_no_interval() -> None:
    found = paired_interval([0.90, 0.92], [0.91, 0.93])
    assert (found.interval, found.real, found.std) == (None, False, 0.0)
    assert found.mean == pytest.approx(0.01)


@pytest.mark.parametrize(("size", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_sample_sizes_are_the_published_ones(size: float, n: int) -> None:
    """G*Power 3.1, matched pairs, two-sided, alpha 0.05, power 0.8."""
    assert runs_to_show(size, 1.0) == n
    assert runs_to_show(-size * 0.003, 0.003) == n, "neither sign nor unit matter"


def test_the_promised_number_of_runs_shows_the_difference_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    n = runs_to_show(0.001, 0.0012)
    shown = {}
    for runs in (n, n - 3):
        differences = rng.normal(0.001, 0.0012, (4000, runs))
        shown[runs] = float(np.mean(stats.ttest_1samp(differences, 0.0, axis=1).pvalue < 0.05))
    assert shown[n] == pytest.approx(0.8, abs=0.03)
    assert shown[n - 3] < 0.8


@given(st.floats(1e-4, 1e3), st.floats(1e-4, 1e3))
def test_every_effect_needs_some_number_of_runs(effect: float, std: float) -> None:
    if effect / std > 0.01:  # beyond, the number itself has little meaning
        assert 2 <= runs_to_show(effect, std) < 10 + 9 * (std / effect) ** 2


def test_no_effect_is_never_shown() -> None:
    with pytest.raises(UsageError, match="no number of runs"):
        runs_to_show(0.0, 0.1)


def test_verdicts_read_as_they_were_measured() -> None:
    first = [0.9400, 0.9410, 0.9390, 0.9405, 0.9395]
    better = verdict(
        paired_interval(first, [a + d for a, d in zip(first, (3e-3, 4e-3, 2e-3, 3e-3, 3e-3), strict=True)]), "a", "b"
    )
    assert better == "b is better than a: 0.30 points, 95 % interval 0.21 to 0.39; n = 5"
    worse = verdict(Paired(4, -0.002, 0.0005, (-0.003, -0.001), 0.95), "a", "b")
    assert worse == "b is worse than a: -0.20 points, 95 % interval -0.30 to -0.10; n = 4"
    unclear = verdict(Paired(5, 0.0005, 0.00121, (-0.001, 0.002), 0.95), "a", "b")
    assert unclear == (
        "no difference shown: 0.05 points, 95 % interval -0.10 to 0.20; n = 5; "
        f"about {runs_to_show(0.001, 0.00121)} runs would show a difference of 0.1 points four times out of five"
    )
    enough = verdict(Paired(40, 0.0001, 0.001, (-0.0002, 0.0004), 0.95), "a", "b", effect=0.005)
    assert enough.endswith("n = 40; so many runs show a difference of 0.5 points four times out of five or more")


def test_verdicts_without_a_spread() -> None:
    assert verdict(paired_interval([0.9, 0.8], [0.9, 0.8]), "a", "b") == (
        "no difference: a and b reached the same accuracy with every seed; n = 2"
    )
    assert verdict(paired_interval([0.9, 0.8], [0.91, 0.81]), "a", "b").startswith(
        "no interval: the difference is +1.00 points with every seed, so its spread is unknown; n = 2"
    )
