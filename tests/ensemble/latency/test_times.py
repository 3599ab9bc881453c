"""Distributions of times, held to the standard library's statistics."""

import json
import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.latency.times import ENOUGH, Latency, summarise

TIMES = st.lists(st.floats(1e-3, 1e4), min_size=2, max_size=300)


@given(TIMES, st.integers(1, 512))
def test_percentiles_and_mean_are_those_of_the_statistics_module(times: list[float], batch: int) -> None:
    found = summarise(times, batch)
    expected = [min(times), *statistics.quantiles(times, n=100, method="inclusive"), max(times)]
    assert found.samples == pytest.approx(expected, abs=1e-6)
    assert (found.batch, found.runs) == (batch, len(times))
    assert found.median_ms == pytest.approx(statistics.median(times), abs=1e-6)
    assert (found.p90_ms, found.p99_ms) == pytest.approx((expected[90], expected[99]), abs=1e-6)
    assert found.mean_ms == pytest.approx(statistics.fmean(times), abs=1e-6)
    assert found.images_per_second == pytest.approx(1e3 * batch * len(times) / math.fsum(times), rel=1e-3)


@given(TIMES)
def test_what_is_written_is_read(times: list[float]) -> None:
    for interruptions in (None, 7):
        found = summarise(times, 3, interruptions)
        assert Latency.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_single_run_is_its_own_distribution() -> None:
    found = summarise([7.5], 1)
    assert set(found.samples) == {7.5}
    assert (found.mean_ms, found.spread) == (7.5, 0.0)


def test_the_spread_is_between_five_parts_in_their_order() -> None:
    times = [10.0] * 20 + [11.0] * 20 + [10.0] * 20 + [12.0] * 20 + [10.0] * 20
    assert summarise(times, 1).spread == 0.2
    assert summarise(sorted(times), 1).spread == 0.2
    assert summarise([10.0, 11.0, 10.0, 12.0, 10.0] * 20, 1).spread == 0.0, "within the parts, times may differ"
    assert summarise([10.0] * 99 + [500.0], 1).spread == 0.0, "a few slow runs are the tail, not a drift"


@pytest.mark.parametrize(
    ("runs", "spread", "interruptions", "note"),
    [
        (ENOUGH, 0.1, 25.0, None),
        (ENOUGH, 0.0, None, None),
        (ENOUGH - 1, 0.0, 0.0, "99 runs are too few for a p99, which needs 100"),
        (ENOUGH, 0.123, 0.0, "medians differed by 12 % while measuring"),
        (ENOUGH, 0.0, 125.3, "the machine was busy: other processes cut in 125 times a second"),
        (3, 2.0, 0.0, "3 runs are too few for a p99, which needs 100; medians differed by 200 % while measuring"),
    ],
)
def test_doubtful_numbers_say_so(runs: int, spread: float, interruptions: float | None, note: str | None) -> None:
    assert replace(summarise([1.0] * runs, 1), spread=spread, interruptions=interruptions).note == note


def test_interruptions_are_counted_by_the_second() -> None:
    assert summarise([20.0] * 100, 1, 50).interruptions == 25.0
    assert summarise([20.0] * 100, 1).interruptions is None


GOOD = summarise([float(n) for n in range(1, 200)], 2).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"samples": GOOD["samples"][:-1]},
        {"samples": [*GOOD["samples"][1:], 0.5]},
        {"samples": [-1.0, *GOOD["samples"][1:]]},
        {"samples": None},
        {"samples": ["1"] * 101},
        {"samples": [True] * 101},
        {"mean_ms": float("nan")},
        {"mean_ms": 1e9},
        {"mean_ms": "5"},
        {"spread": -1.0},
        {"spread": float("inf")},
        {"interruptions": -1},
        {"interruptions": "many"},
        {"runs": 0},
        {"runs": 1.0},
        {"batch": True},
        {"batch": -2},
    ],
)
def test_what_cannot_be_a_latency_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Latency.from_dict({**GOOD, **change})


@pytest.mark.parametrize("name", ["batch", "runs", "mean_ms", "samples", "spread", "interruptions"])
def test_what_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a latency"):
        Latency.from_dict({key: value for key, value in GOOD.items() if key != name})


def test_derived_numbers_are_written_for_others_and_not_believed() -> None:
    assert GOOD["median_ms"] == 100.0
    assert GOOD["p99_ms"] == pytest.approx(197.02)
    assert GOOD["images_per_second"] == pytest.approx(20.0)
    assert Latency.from_dict({**GOOD, "median_ms": 1.0}).median_ms == 100.0
