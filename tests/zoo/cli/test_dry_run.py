"""How an estimate is said."""

import pytest

from zoo.cli.dry_run import duration, in_units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.18e18, "2.18 EFLOP"),
        (3.19e14, "319 TFLOP"),
        (1e15, "1 PFLOP"),
        (1.68e11, "168 GFLOP"),
        (5, "5 FLOP"),
        (0.5, "0.5 FLOP"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert in_units(value, "FLOP") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (38.4, "38 s"),
        (119, "119 s"),
        (121, "2 min"),
        (3540, "59 min"),
        (6720, "1 h 52 min"),
        (3 * 3600 + 59.9 * 60, "4 h 00 min"),
        (47 * 86400 + 5000, "47 days"),
        (94_023_319, "3.0 years"),
    ],
)
def test_times_are_as_exact_as_an_estimate_can_be(seconds: float, text: str) -> None:
    assert duration(seconds) == text
