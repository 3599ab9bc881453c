"""Two ensembles on the same images: every metric of both, what they differ by, and whether it is real."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ensemble.metrics import Probs, Right, Top, brier_each, nll_each, wilson_interval
from ensemble.resampling import RESAMPLES, Aurc, Resampled, Statistic, ece_sums, mean_sums, resample
from ensemble.significance import Estimate, McNemar, interval, mcnemar, paired_accuracy
from zoo.data.split import Labels
from zoo.errors import UsageError

__all__ = ["METRICS", "Answers", "Comparison", "compare", "verdict"]

METRICS = ("accuracy", "nll", "brier", "ece", "aurc")
"""What is compared; of all but accuracy, less is better."""

_LEVEL = 0.05  # of the test, as the intervals are 95 %


@dataclass(frozen=True, eq=False)
class Answers:
    """What an ensemble says of N images, as `ensemble.merge.merge` returns it.

    Attributes:
        probs: `[N, C]`.
        top: `[N]`.
        likelihood: whether `probs` is a distribution and not shares of votes, which have no NLL.
    """

    probs: Probs
    top: Top
    likelihood: bool = True


@dataclass(frozen=True)
class Comparison:
    """Two ensembles compared; the keys of all three tables are `METRICS`.

    Attributes:
        images: N.
        a: metrics of A as fractions and nats, with 95 % intervals: Wilson's of the accuracy, BCa of the others. The
            NLL of a vote is None.
        b: likewise.
        difference: B minus A, with paired 95 % intervals (BCa); None for the NLL if either has none.
        test: McNemar's, of equal accuracy.
        resamples: of the bootstrap.
        seed: likewise.
    """

    images: int
    a: Mapping[str, Estimate | None]
    b: Mapping[str, Estimate | None]
    difference: Mapping[str, Estimate | None]
    test: McNemar
    resamples: int
    seed: int

    @property
    def gain(self) -> Estimate:
        """B's accuracy minus A's."""
        gain = self.difference["accuracy"]
        if gain is None:
            raise TypeError("the accuracy is never None")
        return gain

    @property
    def real(self) -> bool:
        """Whether one is more accurate: by the interval and by the exact test.

        On few images the bootstrap is too sure: five right answers to none would already convince it.
        """
        return self.gain.real and self.test.p < _LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return the tables and the test as plain JSON types."""

        def plain(table: Mapping[str, Estimate | None]) -> dict[str, Any]:
            return {k: None if e is None else {"value": e.value, "ci95": [e.low, e.high]} for k, e in table.items()}

        return {
            "a": plain(self.a),
            "b": plain(self.b),
            "difference": plain(self.difference),
            "mcnemar": asdict(self.test),
            "resamples": self.resamples,
            "seed": self.seed,
            "real": self.real,
            "verdict": verdict(self),
        }


def compare(a: Answers, b: Answers, labels: Labels, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two ensembles' answers to the same images.

    Args:
        a: of the first, usually the one in use.
        b: of the second.
        labels: `[N]`, N at least 2.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: something else than `Answers`, answers that do not fit the labels, fewer than two images, or no
            resample.
    """
    labels = np.asarray(labels)
    for name, side in (("a", a), ("b", b)):
        _check(name, side, labels)
    sides = [_statistics(side, labels) for side in (a, b)]
    statistics = [s for side in sides for s in side.values()]
    found = iter(resample(statistics, len(labels), resamples=resamples, seed=seed))
    first, second = ({name: next(found) for name in side} for side in sides)
    right = [side.top == labels for side in (a, b)]
    test = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    gain = paired_accuracy(test.only_a, test.only_b, len(labels), resamples=resamples, seed=seed)
    difference: dict[str, Estimate | None] = {"accuracy": gain}
    for m in METRICS[1:]:
        difference[m] = interval(second[m] - first[m]) if m in first and m in second else None
    tables = [_table(*side) for side in zip((first, second), right, strict=True)]
    return Comparison(len(labels), tables[0], tables[1], difference, test, resamples, seed)


def _check(name: str, side: Answers, labels: Labels) -> None:
    """Raise `UsageError` unless these are answers to images with these labels."""
    if not isinstance(side, Answers):
        raise UsageError(f"{name} is of type {type(side).__name__}: give Answers(probs, probs.argmax(1))")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UsageError(f"labels is {labels.dtype} {list(labels.shape)}: give numbers of classes, integers [N]")
    shape, n = np.shape(side.probs), len(labels)
    if len(shape) != 2 or shape[0] != n or np.shape(side.top) != (n,):  # noqa: PLR2004  # images and classes
        raise UsageError(
            f"{name} has probs {list(shape)} and top {list(np.shape(side.top))} for {n} labels: give [N, C] and [N]"
        )
    if n and not 0 <= labels.min() <= labels.max() < shape[1]:
        raise UsageError(f"labels go from {labels.min()} to {labels.max()}, but {name} has {shape[1]} classes")


def _table(measured: Mapping[str, Resampled], right: Right) -> dict[str, Estimate | None]:
    """Return one ensemble's metrics with their intervals."""
    low, high = wilson_interval(int(right.sum()), len(right))
    table: dict[str, Estimate | None] = {"accuracy": Estimate(float(right.mean()), low, high)}
    for m in METRICS[1:]:
        table[m] = interval(measured[m]) if m in measured else None
    return table


def _statistics(side: Answers, labels: Labels) -> dict[str, Statistic]:
    """Return what is resampled, in the order of `METRICS`; the accuracy needs only counts."""
    statistics: dict[str, Statistic] = {"nll": mean_sums(nll_each(side.probs, labels))} if side.likelihood else {}
    return statistics | {
        "brier": mean_sums(brier_each(side.probs, labels)),
        "ece": ece_sums(side.probs, labels, side.top),
        "aurc": Aurc(side.probs, labels, side.top),
    }


def verdict(found: Comparison, a: str = "A", b: str = "B") -> str:
    """Say in one sentence which is more accurate, or that this cannot be told.

    Args:
        found: the comparison.
        a: what the first is called.
        b: what the second is called.
    """
    gain, test = found.gain, found.test
    p = f"= {test.p:.2g}" if test.p >= 0.0001 else "< 0.0001"  # noqa: PLR2004  # nobody needs to know how much less
    how = f"(paired bootstrap, {found.resamples:,} resamples, n = {found.images:,}; McNemar p {p})"
    if not test.only_a and not test.only_b:
        return f"no difference in accuracy can be told: {a} and {b} are right on the same images; n = {found.images:,}"
    ahead, low, high = (b, gain.low, gain.high) if gain.value >= 0 else (a, 0 - gain.high, 0 - gain.low)
    measured = f"95 % interval {100 * low:.2f} to {100 * high:.2f} {how}"
    if gain.value == 0:
        return f"no difference in accuracy can be told: {a} and {b} are right equally often, {measured}"
    by = f"{100 * abs(gain.value):.2f} points"
    if found.real:
        return f"{ahead} is better by {by} of accuracy, {measured}"
    split = "; the two tests do not agree" if gain.real or test.p < _LEVEL else ""
    return f"no difference in accuracy can be told: {ahead} is ahead by {by}, {measured}{split}"
