"""Intervals against scipy and in simulations whose truth is known; McNemar's test against scipy and by hand."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemble.resampling import AnyMetric, Resampled, mean_sums, resample
from ensemble.significance import Estimate, Method, bootstrap, interval, mcnemar, paired_accuracy
from zoo.errors import UsageError


def skewed(images: int = 30) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).exponential(size=images)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_a_skewed_mean_against_scipy(method: Method) -> None:
    values = skewed()
    own = bootstrap(mean_sums(values), 30, resamples=40_000, method=method)
    peer = stats.bootstrap((values,), np.mean, n_resamples=40_000, method=method, rng=1).confidence_interval
    assert (own.low, own.high) == pytest.approx((peer.low, peer.high), abs=0.02)
    assert own.value == pytest.approx(values.mean())
    # The two methods differ by more than that here, so this tells one from the other.
    other = interval(resample([mean_sums(values)], 30, resamples=40_000)[0], method="bca")
    assert method == "bca" or other.high - own.high > 0.02


def test_the_same_draws_give_scipys_bca_to_the_last_digits() -> None:
    values = skewed(20)
    peer = stats.bootstrap((values,), np.var, n_resamples=500, method="BCa", rng=0)
    left_out = np.array([np.var(np.delete(values, n)) for n in range(20)])
    own = interval(Resampled(float(np.var(values)), peer.bootstrap_distribution, left_out))
    ends = peer.confidence_interval
    assert (own.low, own.high) == pytest.approx((ends.low, ends.high), abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.99])
def test_the_level_is_the_share_of_draws_between_the_ends(level: float) -> None:
    draws = np.random.default_rng(2).standard_normal(20_000)
    found = interval(Resampled(0.0, draws, np.zeros(5)), level, "percentile")
    assert ((draws > found.low) & (draws < found.high)).mean() == pytest.approx(level, abs=1e-3)
    assert found.level == level


def test_bias_is_shifted_out() -> None:
    # Draws whose median is half a standard error above the value: BCa's ends move by twice as much the other way.
    draws = np.random.default_rng(3).standard_normal(200_000)
    found = interval(Resampled(-0.5, draws, np.zeros(5)))
    assert (found.low, found.high) == pytest.approx((-1.96 - 1, 1.96 - 1), abs=0.03)


def test_draws_that_never_reach_the_value_still_give_an_interval() -> None:
    draws = np.linspace(1, 2, 1000)
    found = interval(Resampled(0.0, draws, np.array([0.0, 0.0, 5.0])))
    assert 1 <= found.low <= found.high < 1.01  # its lowest end: they say no more


def test_nothing_that_varies_has_an_interval_without_length() -> None:
    assert bootstrap(mean_sums(np.ones(10)), 10, resamples=50) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize("level", [0, 1, -0.1, 95])
def test_a_level_is_a_fraction(level: float) -> None:
    with pytest.raises(UsageError, match=r"in \(0, 1\)"):
        interval(Resampled(0.0, np.zeros(3), np.zeros(3)), level)


@pytest.mark.parametrize(
    ("low", "high", "real"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_what_leaves_zero_out_is_real(low: float, high: float, real: bool) -> None:
    assert Estimate(0.05, low, high).real is real


def test_any_metric_has_an_interval() -> None:
    values = np.random.default_rng(4).standard_normal(80)
    own = bootstrap(AnyMetric(lambda rows: float(np.median(values[rows])), 80), 80, resamples=2000, method="percentile")
    peer = stats.bootstrap((values,), np.median, n_resamples=2000, method="percentile", rng=0).confidence_interval
    assert (own.low, own.high) == pytest.approx((peer.low, peer.high), abs=0.06)


def test_intervals_of_an_accuracy_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    truth, trials, images = 0.8, 400, 60
    hits = 0
    for trial in range(trials):
        found = bootstrap(mean_sums(rng.random(images) < truth), images, resamples=500, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / trials <= 0.98


@pytest.mark.parametrize(("only_a", "only_b"), [(0.15, 0.05), (0.1, 0.1)])
def test_paired_intervals_cover_the_truth(only_a: float, only_b: float) -> None:
    rng = np.random.default_rng(6)
    trials, images, hits = 600, 120, 0
    for trial in range(trials):
        a, b, _ = rng.multinomial(images, [only_a, only_b, 1 - only_a - only_b])
        found = paired_accuracy(int(a), int(b), images, resamples=1000, seed=trial)
        hits += found.low <= only_b - only_a <= found.high
    assert 0.92 <= hits / trials <= 0.98


def test_pairing_takes_out_what_both_owe_to_the_images() -> None:
    rng = np.random.default_rng(7)
    easy = rng.random(500) < 0.7  # both right or both wrong, but for one image in twenty
    a, b = easy ^ (rng.random(500) < 0.03), easy ^ (rng.random(500) < 0.03)
    first, second = resample([mean_sums(a), mean_sums(b)], 500, resamples=2000)
    paired, apart = interval(second - first), [interval(side) for side in (first, second)]
    assert paired.high - paired.low < min(one.high - one.low for one in apart) / 1.5


def test_counts_give_the_distribution_of_drawn_images() -> None:
    gains = np.repeat([-1.0, 1.0, 0.0], [12, 25, 163])
    drawn = bootstrap(mean_sums(gains), 200, resamples=40_000)
    counted = paired_accuracy(12, 25, 200, resamples=40_000)
    assert counted.value == drawn.value == 0.065
    assert (counted.low, counted.high) == pytest.approx((drawn.low, drawn.high), abs=0.0051)  # an image of 200


def test_counts_mirror() -> None:
    there, back = (paired_accuracy(*pair, 1000, resamples=40_000) for pair in ((30, 60), (60, 30)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.0011)
    assert there.low > 0


def test_equal_answers_have_no_difference() -> None:
    assert paired_accuracy(0, 0, 100) == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("counts", [(-1, 3, 10), (6, 5, 10), (0, 0, 1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="no counts to compare"):
        paired_accuracy(*counts)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=150)
def test_mcnemar_against_scipys_binomial(only_a: int, only_b: int) -> None:
    test = mcnemar(only_a, only_b)
    n = only_a + only_b
    if not n:
        assert (test.p, test.mid_p) == (1, 1)
        return
    assert test.p == pytest.approx(stats.binomtest(only_a, n, 0.5).pvalue, rel=1e-9)
    # Fagerland, Lydersen & Laake, equation 4: the exact p less the probability of what was seen; of equal counts,
    # 1 less half of it.
    seen = float(stats.binom.pmf(only_a, n, 0.5))
    assert test.mid_p == pytest.approx(1 - seen / 2 if only_a == only_b else test.p - seen, rel=1e-9)
    assert (test.p, test.mid_p) == (mcnemar(only_b, only_a).p, mcnemar(only_b, only_a).mid_p)


def test_mcnemar_by_hand() -> None:
    # Five to none: 2 / 32; mid-p: 1 / 32. One to three: 2 * (1 + 4) / 16, and 2 * (1 + 2) / 16.
    assert (mcnemar(0, 5).p, mcnemar(0, 5).mid_p) == (2 / 32, 1 / 32)
    assert (mcnemar(1, 3).p, mcnemar(1, 3).mid_p) == (10 / 16, 6 / 16)


def test_mcnemar_of_many_images() -> None:
    assert mcnemar(4800, 5200).p == pytest.approx(stats.binomtest(4800, 10_000, 0.5).pvalue, rel=1e-9)
    assert mcnemar(0, 5000).p < 1e-300


def test_the_exact_test_rarely_raises_a_false_alarm() -> None:
    n = 40  # all that members of equal accuracy disagree on
    chance = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    tests = [mcnemar(k, n - k) for k in range(n + 1)]
    exact = sum(c for c, t in zip(chance, tests, strict=True) if t.p < 0.05)
    mid = sum(c for c, t in zip(chance, tests, strict=True) if t.mid_p < 0.05)
    assert exact <= 0.05
    assert exact <= mid < 0.06
