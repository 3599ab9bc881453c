"""How long something takes: the distribution of its times, as it is kept and shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["ENOUGH", "Latency", "summarise"]

ENOUGH = 100
"""Runs from which on the 99th percentile is more than another name for the slowest."""

_PARTS = 5
_STEADY, _QUIET = 0.1, 25


@dataclass(frozen=True)
class Latency:
    """Times of a batch, one batch at a time.

    Attributes:
        batch: images in it.
        runs: how often it ran.
        mean_ms: mean time in milliseconds.
        samples: the 0th, 1st, ..., 100th percentile of the times in milliseconds, 101 numbers that do not fall: drawn
            as steps of 1 %, they are the distribution.
        spread: how steady the machine was: of five consecutive parts of the runs, the largest median less the
            smallest, as a fraction of the median of all.
        interruptions: how often a second another process was given a processor that this one was using; None where
            the system does not count. It tells what the spread cannot: that the machine was busy all the time.
    """

    batch: int
    runs: int
    mean_ms: float
    samples: tuple[float, ...]
    spread: float
    interruptions: float | None = None

    @property
    def median_ms(self) -> float:
        return self.samples[50]

    @property
    def p90_ms(self) -> float:
        return self.samples[90]

    @property
    def p99_ms(self) -> float:
        return self.samples[99]

    @property
    def images_per_second(self) -> float:
        """What went through while it was measured, the slow runs included."""
        return 1e3 * self.batch / self.mean_ms

    @property
    def note(self) -> str | None:
        """What to know before relying on the numbers, in a few words; None if there is nothing."""
        notes = []
        if self.runs < ENOUGH:
            notes.append(f"{self.runs} runs are too few for a p99, which needs {ENOUGH}")
        if self.spread > _STEADY:
            notes.append(f"medians differed by {100 * self.spread:.0f} % while measuring")
        if self.interruptions is not None and self.interruptions > _QUIET:
            notes.append(f"the machine was busy: other processes cut in {self.interruptions:.0f} times a second")
        return "; ".join(notes) or None

    def to_dict(self) -> dict[str, Any]:
        """Return all that is known, derived numbers included, for JSON."""
        derived = ("median_ms", "p90_ms", "p99_ms", "images_per_second", "note")
        return {**asdict(self), "samples": list(self.samples), **{name: getattr(self, name) for name in derived}}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Latency":
        """Read what `to_dict` wrote; the derived numbers are derived again.

        Raises:
            ValueError: this is not one.
        """
        try:
            batch, runs, samples = table["batch"], table["runs"], tuple(table["samples"])
            cuts = table["interruptions"]
            numbers = (table["mean_ms"], table["spread"], *samples, *([] if cuts is None else [cuts]))
        except (KeyError, TypeError) as error:
            raise ValueError("not a latency") from error
        if any(type(n) not in {int, float} or not math.isfinite(n) for n in numbers):
            raise ValueError("a time is no finite number")
        if type(batch) is not int or type(runs) is not int or min(batch, runs) < 1:
            raise ValueError("batch and runs are not numbers from 1 on")
        if len(samples) != 101 or samples[0] < 0 or sorted(samples) != list(samples):  # noqa: PLR2004  # percentiles
            raise ValueError("the samples are not 101 times that do not fall")
        if not samples[0] <= numbers[0] <= samples[-1] or numbers[0] <= 0:
            raise ValueError("the mean is not that of the samples")
        if min(numbers[1], numbers[-1]) < 0:
            raise ValueError("spread or interruptions are below 0")
        mean, spread, *_ = map(float, numbers)
        return cls(batch, runs, mean, tuple(map(float, samples)), spread, None if cuts is None else float(cuts))


def summarise(times: Sequence[float], batch: int, interruptions: int | None = None) -> Latency:
    """Return the distribution of times.

    Args:
        times: milliseconds in the order of measurement, at least one; percentiles between two of them are interpolated.
        batch: images that each is for.
        interruptions: how often another process was given a processor meanwhile, if that is known.
    """
    values = np.asarray(times, np.float64)
    medians = [np.median(part) for part in np.array_split(values, max(1, min(_PARTS, len(values) // 2)))]
    samples = np.percentile(values, np.arange(101))
    # Rounded to nanoseconds, the clock's unit, so that files are small.
    spread = float((max(medians) - min(medians)) / np.median(values))
    mean = min(max(float(values.mean()), samples[0]), samples[-1])
    return Latency(
        batch,
        len(values),
        round(mean, 6),
        tuple(round(float(sample), 6) for sample in samples),
        round(spread, 4),
        None if interruptions is None else round(1e3 * interruptions / float(values.sum()), 1),
    )
