"""Is a change real? Spread over seeds, and paired intervals between two recipes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from zoo.errors import UsageError

__all__ = ["POWER", "Paired", "Spread", "paired_interval", "runs_to_show", "spread", "verdict"]

_FEWEST = 2
_SAME = 1e-12
"""Differences whose standard deviation is below this are the same number, up to rounding."""

POWER = 0.8
"""Share of experiments that are to show a difference which is there, as is usual."""


@dataclass(frozen=True)
class Spread:
    """What a recipe reached over `n` seeds: mean and sample standard deviation (None for a single seed)."""

    n: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Paired:
    """Differences of two recipes, second minus first, over the `n` seeds that both were trained with.

    Attributes:
        n: seeds.
        mean: mean difference.
        std: sample standard deviation of the differences.
        interval: confidence interval of the mean; None if all differences are the same, which gives no scale.
        level: of the interval, in (0, 1).
    """

    n: int
    mean: float
    std: float
    interval: tuple[float, float] | None
    level: float

    @property
    def real(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and standard deviation of at least one value."""
    if not values:
        raise UsageError("a mean needs at least one value")
    return Spread(len(values), fmean(values), stdev(values) if len(values) >= _FEWEST else None)


def paired_interval(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Paired:
    """Return the mean of `second - first` with its paired t interval (Student, Biometrika 6, 1908).

    Pairing by seed takes out what both recipes owe to a seed: the same initial weights and order of the images. The
    interval is over seeds; that both were measured on the same finite validation split is not part of it.

    Args:
        first: a value for each seed.
        second: likewise, in the same order of seeds.
        level: of the interval, in (0, 1).

    Raises:
        UsageError: not the same number of values, fewer than two, one that is not finite, or a level outside (0, 1).
    """
    if len(first) != len(second) or len(first) < _FEWEST:
        raise UsageError(f"a paired interval needs two or more pairs, not {len(first)} and {len(second)} values")
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval is in (0, 1), not {level}")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    if not all(map(math.isfinite, differences)):
        raise UsageError("a paired interval needs finite values")
    n, mean, std = len(differences), fmean(differences), stdev(differences)
    if std < _SAME:
        return Paired(n, mean, 0.0, None, level)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * std / math.sqrt(n)
    return Paired(n, mean, std, (mean - half, mean + half), level)


def runs_to_show(effect: float, std: float, *, level: float = 0.95, power: float = POWER) -> int:
    """Return how many pairs a two-sided t test needs to show a difference (J. Cohen, 1988, chapter 2).

    Args:
        effect: the true mean difference, not 0.
        std: standard deviation of the differences, in the same unit.
        level: 1 minus the test's rate of false alarms.
        power: how often the difference is to be shown, in (0, 1).

    Raises:
        UsageError: an effect of 0, or a negative spread.
    """
    if effect == 0 or std < 0:
        raise UsageError(f"no number of runs shows a difference of {effect} with a spread of {std}")
    size = abs(effect) / max(std, _SAME)
    # What a known standard deviation would need: the answer is never smaller, and little larger.
    both = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power))
    n = max(_FEWEST, math.ceil((both / size) ** 2))
    while _power(size, n, level) < power:
        n += 1
    return n


def _power(size: float, n: int, level: float) -> float:
    """Return how often `n` pairs show a difference of `size` standard deviations."""
    limit, shift = float(stats.t.ppf((1 + level) / 2, n - 1)), size * math.sqrt(n)
    if shift > 10 * limit:  # certain, and beyond what the distribution can be computed for
        return 1.0
    return float(stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift))


def verdict(paired: Paired, first: str, second: str, effect: float = 0.001) -> str:
    """Say in one sentence whether a change of accuracy is real.

    Args:
        paired: differences of accuracy as fractions.
        first: what the first recipe is called.
        second: what the second is called.
        effect: the difference (fraction, above 0) that one would like to see, for the number of runs it takes.
    """
    runs = f"n = {paired.n}"
    if paired.interval is None:
        if abs(paired.mean) < _SAME:
            return f"no difference: {first} and {second} reached the same accuracy with every seed; {runs}"
        return (
            f"no interval: the difference is {100 * paired.mean:+.2f} points with every seed, so its spread is "
            f"unknown; {runs}; train with more seeds"
        )
    low, high = (100 * bound for bound in paired.interval)
    measured = f"{100 * paired.mean:.2f} points, {100 * paired.level:g} % interval {low:.2f} to {high:.2f}; {runs}"
    if paired.real:
        return f"{second} is {'better' if paired.mean > 0 else 'worse'} than {first}: {measured}"
    needed, shown = runs_to_show(effect, paired.std, level=paired.level), f"a difference of {100 * effect:g} points"
    often = "four times out of five"
    if needed <= paired.n:
        return f"no difference shown: {measured}; so many runs show {shown} {often} or more"
    return f"no difference shown: {measured}; about {needed} runs would show {shown} {often}"
