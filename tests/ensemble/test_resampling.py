"""Resampled metrics against the metrics on images taken out one by one, and against what is known of a bootstrap."""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import resampling
from ensemble.metrics import aurc, brier, brier_each, ece, nll, nll_each
from ensemble.resampling import AnyMetric, Aurc, Counts, Statistic, Sums, ece_sums, mean_sums, resample
from zoo.errors import UsageError

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Top = npt.NDArray[np.intp]
Metric = Callable[[Array, Labels, Top], float]


def outcome(seed: int, images: int = 40, digits: int | None = None) -> tuple[Array, Labels, Top]:
    """Return probabilities, labels and predictions; rounded, images share confidences as a vote's do."""
    rng = np.random.default_rng(seed)
    probs: Array = np.exp(1.5 * rng.standard_normal((images, 4)))
    probs /= probs.sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=row) for row in probs], np.int64)
    top = probs.argmax(1)
    return (probs if digits is None else probs.round(digits)), labels, top


def statistics(probs: Array, labels: Labels, top: Top) -> list[tuple[Statistic, Metric]]:
    """Return each fast statistic beside the metric it stands for."""
    return [
        (mean_sums(top == labels), lambda p, y, t: float((t == y).mean() + 0 * p.sum())),
        (mean_sums(nll_each(probs, labels)), lambda p, y, _: nll(p, y)),
        (mean_sums(brier_each(probs, labels)), lambda p, y, _: brier(p, y)),
        (ece_sums(probs, labels, top), ece),
        (ece_sums(probs, labels, top, 4), lambda p, y, t: ece(p, y, t, 4)),
        (Aurc(probs, labels, top), aurc),
    ]


def slow(metric: Metric, probs: Array, labels: Labels, top: Top) -> AnyMetric:
    return AnyMetric(lambda rows: metric(probs[rows], labels[rows], top[rows]), len(labels))


def some_counts(seed: int, resamples: int, images: int) -> Counts:
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), resamples).astype(np.int32)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_stand_for_images_drawn_again(seed: int, digits: int | None) -> None:
    data = outcome(seed, digits=digits)
    counts = some_counts(seed, 25, 40)
    assert counts.max() > 2
    for fast, metric in statistics(*data):
        np.testing.assert_allclose(fast.of(counts), slow(metric, *data).of(counts), atol=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", [2, 3])
def test_the_jackknife_leaves_each_image_out(seed: int, digits: int | None) -> None:
    data = outcome(seed, digits=digits)
    for fast, metric in statistics(*data):
        probs, labels, top = data
        kept = [np.delete(np.arange(40), n) for n in range(40)]
        wanted = [metric(probs[rows], labels[rows], top[rows]) for rows in kept]
        np.testing.assert_allclose(fast.left_out(), wanted, atol=1e-12)
        np.testing.assert_allclose(slow(metric, *data).left_out(), wanted, atol=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8]), st.booleans()), min_size=2, max_size=9), st.data())
@settings(max_examples=80)
def test_area_with_any_ties_and_counts(images: list[tuple[float, bool]], data: st.DataObject) -> None:
    confidence = np.array([c for c, _ in images])
    probs = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([int(wrong) for _, wrong in images])
    top = np.zeros(len(images), np.intp)
    drawn = data.draw(st.lists(st.integers(0, 4), min_size=len(images), max_size=len(images)).filter(any))
    counts = np.array([drawn], np.int32)
    fast, twin = Aurc(probs, labels, top), slow(aurc, probs, labels, top)
    np.testing.assert_allclose(fast.of(counts), twin.of(counts), atol=1e-12)
    np.testing.assert_allclose(fast.left_out(), twin.left_out(), atol=1e-12)


def test_resamples_are_multinomial() -> None:
    # Each image's own count is Binomial(N, 1/N), and N are drawn each time.
    images = 8
    single = [Sums(np.eye(images)[:, [n]], lambda sums, _: sums[:, 0]) for n in range(images)]
    counts = np.stack([r.draws for r in resample(single, images, resamples=20_000)], 1)
    assert (counts.sum(1) == images).all()
    assert counts.mean(0) == pytest.approx(np.ones(images), abs=0.03)
    covariance = np.full((images, images), -1 / images) + np.eye(images)  # N p (1 - p), and -N p p
    np.testing.assert_allclose(np.cov(counts.T), covariance, atol=0.04)


def test_all_statistics_see_the_same_draws() -> None:
    data = outcome(4)
    fast = [s for s, _ in statistics(*data)]
    alone = [resample([s], 40, resamples=50, seed=3)[0] for s in fast]
    for together, single in zip(resample(fast, 40, resamples=50, seed=3), alone, strict=True):
        np.testing.assert_allclose(together.draws, single.draws, atol=1e-12)
    gap = alone[2] - alone[3]
    np.testing.assert_allclose(gap.draws, alone[2].draws - alone[3].draws, atol=1e-12)
    assert gap.value == pytest.approx(brier(*data[:2]) - ece(*data))


def test_blocks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    data = outcome(5)
    fast = [s for s, _ in statistics(*data)]
    whole = resample(fast, 40, resamples=101, seed=1)
    monkeypatch.setattr(resampling, "_CHUNK", 400)
    monkeypatch.setattr(resampling, "_BLOCK", 120)
    for once, blocks in zip(whole, resample(fast, 40, resamples=101, seed=1), strict=True):
        np.testing.assert_allclose(once.draws, blocks.draws, atol=1e-12)


def test_a_seed_repeats_and_another_differs() -> None:
    statistic = mean_sums(np.arange(50))
    draws = [resample([statistic], 50, resamples=20, seed=seed)[0].draws.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_value_is_of_the_images_as_they_are() -> None:
    data = outcome(6)
    found = resample([s for s, _ in statistics(*data)], 40, resamples=5)
    assert [r.value for r in found] == pytest.approx([metric(*data) for _, metric in statistics(*data)])


@pytest.mark.parametrize(("images", "resamples"), [(1, 10), (0, 10), (5, 0)])
def test_too_little_is_refused(images: int, resamples: int) -> None:
    with pytest.raises(UsageError, match="two or more images"):
        resample([mean_sums(np.zeros(images))], images, resamples=resamples)


def test_ten_thousand_images_are_quick_and_small() -> None:
    rng = np.random.default_rng(0)
    probs: Array = np.exp(3 * rng.standard_normal((10_000, 10)))
    probs /= probs.sum(1, keepdims=True)
    top, labels = probs.argmax(1), rng.integers(0, 10, 10_000)
    fast: list[Statistic] = [ece_sums(probs, labels, top), Aurc(probs, labels, top), mean_sums(nll_each(probs, labels))]
    tracemalloc.start()
    began = time.perf_counter()
    resample(fast, 10_000, resamples=1000)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 3  # a tenth of what is drawn by default: measured 0.2
    assert peak < 100e6
