"""The bootstrap over images: metrics as functions of how often each image was drawn (B. Efron, Ann. Stat. 7, 1979).

A resample is a row of counts `[N]` that sum to N. Metrics that are sums over images (or a function of a few sums) cost
one matrix product for all resamples; 10,000 resamples of 10,000 images take about a second, in some 50 MB.
Letters: N images, R resamples, K sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ensemble.metrics import Array, Probs, Top, calibration_gaps, confidences
from zoo.data.split import Labels
from zoo.errors import UsageError

__all__ = [
    "RESAMPLES",
    "AnyMetric",
    "Aurc",
    "Counts",
    "Resampled",
    "Statistic",
    "Sums",
    "ece_sums",
    "mean_sums",
    "resample",
]

RESAMPLES = 10_000
"""How many by default: the 2.5 % and 97.5 % quantiles then move by less than 1 % of the interval from seed to seed."""

Counts = npt.NDArray[np.int32]
_CHUNK = 1 << 21  # counts at a time: tens of megabytes, and so few matrix products that threads are worth their while
_BLOCK = 1 << 17  # likewise where there is no product: what stays in the processor's cache


class Statistic(Protocol):
    """A metric of N images that can be had on any resample of them."""

    def of(self, counts: Counts) -> Array:
        """Return the metric `[R]` where image n counts `counts[r, n]` times, `[R, N]`."""

    def left_out(self) -> Array:
        """Return the metric `[N]` without image n: the jackknife."""


@dataclass(frozen=True, eq=False)
class Sums:
    """A metric that is a function of K sums over images.

    Attributes:
        columns: `[N, K]`, what each image adds.
        finish: makes metrics `[R]` of sums `[R, K]` and the number of images they are over.
    """

    columns: Array
    finish: Callable[[Array, int], Array]

    def of(self, counts: Counts) -> Array:
        return self.finish(counts.astype(np.float64) @ self.columns, int(counts[0].sum()))

    def left_out(self) -> Array:
        return self.finish(self.columns.sum(0) - self.columns, len(self.columns) - 1)


def mean_sums(values: npt.NDArray[np.generic]) -> Sums:
    """Return the mean of `[N]` values as a statistic: right answers (accuracy), `nll_each`, `brier_each`."""
    return Sums(np.asarray(values, np.float64)[:, None], lambda sums, images: sums[:, 0] / images)


def ece_sums(probs: Probs, labels: Labels, top: Top, bins: int = 15) -> Sums:
    """Return `ensemble.metrics.ece` as a statistic; arguments as there."""
    which, gaps = calibration_gaps(probs, labels, top, bins)
    columns = np.zeros((len(gaps), bins))
    columns[np.arange(len(gaps)), which] = gaps
    return Sums(columns, lambda sums, images: np.abs(sums).sum(1) / images)


class Aurc:
    """`ensemble.metrics.aurc` as a statistic; an image drawn twice is two images of the same confidence.

    With w images drawn at a step of the curve (a confidence), W up to it and E errors among them, the area is
    sum(w * E / W) / N. Summed by errors instead: each weighs the sum of w / W from its own step on.

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
        top: the predicted classes `[N]`.
    """

    def __init__(self, probs: Probs, labels: Labels, top: Top) -> None:
        confidence = confidences(probs, top)
        self._order = np.argsort(-confidence, kind="stable")
        ranked = confidence[self._order]
        steps = np.concatenate(([True], ranked[1:] != ranked[:-1]))
        self._starts = np.flatnonzero(steps)
        self._step = np.cumsum(steps) - 1  # of each image, in order of confidence
        self._wrong = (top != labels)[self._order]

    def of(self, counts: Counts) -> Array:
        if not self._wrong.any():
            return np.zeros(len(counts))
        at_once = max(1, _BLOCK // counts.shape[1])
        blocks = [self._block(counts[r : r + at_once]) for r in range(0, len(counts), at_once)]
        return np.concatenate(blocks)

    def _block(self, counts: Counts) -> Array:
        drawn = np.take(counts, self._order, axis=1)
        errors = drawn[:, self._wrong]
        if len(self._starts) < drawn.shape[1]:
            drawn = np.add.reduceat(drawn, self._starts, axis=1, dtype=np.int32)
        seen = np.maximum(drawn.cumsum(1, dtype=np.int32), 1)  # as long as it is 0, so is what it divides
        at, which = np.unique(self._step[self._wrong], return_inverse=True)
        later = np.add.reduceat(drawn / seen, at, axis=1)[:, ::-1].cumsum(1)[:, ::-1]
        return np.asarray((errors * later[:, which]).sum(1) / counts[0].sum())

    def left_out(self) -> Array:
        w = np.diff(np.append(self._starts, len(self._wrong)))
        total, errors = w.cumsum(), np.add.reduceat(self._wrong, self._starts, dtype=np.intp).cumsum()
        fewer = np.maximum(total - 1, 1)
        before = np.concatenate(([0.0], (w * errors / total).cumsum()))[:-1]
        after = _later(w * errors / fewer)  # from later steps, which have one image less, if that one is right,
        lost = _later(w / fewer)  # and what goes from them too if it is wrong
        s, wrong = self._step, self._wrong.astype(np.intp)
        own = (w[s] - 1) * (errors[s] - wrong) / fewer[s]
        values = np.empty(len(s))
        values[self._order] = (before[s] + own + after[s] - wrong * lost[s]) / max(len(s) - 1, 1)
        return values


def _later(values: Array) -> Array:
    """Sum of all values behind each."""
    return np.asarray(values[::-1].cumsum()[::-1] - values)


@dataclass(frozen=True, eq=False)
class AnyMetric:
    """Any metric as a statistic, called once a resample: slow, and the readable twin of the others.

    Attributes:
        metric: its value on the images with these row numbers, `[N]`, which may repeat.
        images: N.
    """

    metric: Callable[[npt.NDArray[np.intp]], float]
    images: int

    def of(self, counts: Counts) -> Array:
        rows = np.arange(self.images)
        return np.array([self.metric(np.repeat(rows, drawn)) for drawn in counts])

    def left_out(self) -> Array:
        rows = np.arange(self.images)
        return np.array([self.metric(np.delete(rows, n)) for n in rows])


@dataclass(frozen=True, eq=False)
class Resampled:
    """A metric, and what it would be on other images like these.

    Two from the same call of `resample` are paired: they were drawn together, and `b - a` is the difference on each
    resample, from which what both owe to the images is gone.

    Attributes:
        value: on the images as they are.
        draws: on each resample, `[R]`.
        left_out: without each image, `[N]`.
    """

    value: float
    draws: Array
    left_out: Array

    def __sub__(self, other: "Resampled") -> "Resampled":
        return Resampled(self.value - other.value, self.draws - other.draws, self.left_out - other.left_out)

    @cached_property
    def acceleration(self) -> float:
        """BCa's constant `a`: how the standard error changes with the metric (B. Efron, JASA 82, 1987, eq. 6.6)."""
        d = self.left_out.mean() - self.left_out
        square = float((d**2).sum())
        return float((d**3).sum()) / (6 * square**1.5) if square > 0 else 0.0


def resample(
    statistics: Sequence[Statistic], images: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Resampled]:
    """Draw images with replacement, and measure every statistic on the same draws.

    Args:
        statistics: all of the same images.
        images: N, at least 2.
        resamples: R, above 0.
        seed: the same gives the same draws.

    Raises:
        UsageError: fewer than two images, or no resample.
    """
    if images < 2 or resamples < 1:  # noqa: PLR2004  # without one there must be another
        raise UsageError(f"a bootstrap needs two or more images and a resample, not {images} and {resamples}")
    sums = [s for s in statistics if isinstance(s, Sums)]
    columns = np.concatenate([s.columns for s in sums], axis=1) if sums else np.zeros((images, 0))
    draws = np.empty((len(statistics), resamples))
    start = 0
    for counts in _draw(images, resamples, seed):
        rows = slice(start, start := start + len(counts))
        totals, column = counts.astype(np.float64) @ columns, 0
        for k, s in enumerate(statistics):
            if isinstance(s, Sums):
                own = slice(column, column := column + s.columns.shape[1])
                draws[k, rows] = s.finish(totals[:, own], images)
            else:
                draws[k, rows] = s.of(counts)
    once = np.ones((1, images), np.int32)
    return [Resampled(float(s.of(once)[0]), d, s.left_out()) for s, d in zip(statistics, draws, strict=True)]


def _draw(images: int, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield the counts of some resamples at a time, `[R', N]`, `resamples` in all."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // images)
    for done in range(0, resamples, at_once):
        counts = np.empty((min(at_once, resamples - done), images), np.int32)
        for row in counts:
            row[:] = np.bincount(rng.integers(0, images, images), minlength=images)
        yield counts
