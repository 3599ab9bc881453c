"""Timing what runs on a device: warm, one batch at a time, until the tail of the distribution is known."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import torch

from ensemble.latency.times import ENOUGH, Latency, summarise
from zoo.data.split import Pixels
from zoo.errors import UsageError

__all__ = ["ROUNDS", "SECONDS", "Turns", "measure", "measure_in_turns", "shuffled_batches"]

ROUNDS = 5
"""How many turns each has by default, of what is compared."""

SECONDS = 2.0
"""How long is measured by default."""

_FEWEST, _LONGER = 3, 5
_WINDOW, _WINDOW_RUNS, _SETTLED = 0.1, 3, 0.03
_PAUSE = 0.05
"""Seconds before a turn, in which the idle threads of whoever ran before stop looking for work."""

_Once = Callable[[Any], float]
"""Takes a batch and returns how long it took, in milliseconds."""


@dataclass(frozen=True)
class Turns:
    """Times of something that took turns with others.

    Attributes:
        latency: of all turns together.
        medians: of each turn, in milliseconds.
    """

    latency: Latency
    medians: tuple[float, ...]

    def times_faster(self, than: "Turns") -> list[float]:
        """Return how many times as fast it was as another, in each round."""
        return [other / mine for mine, other in zip(self.medians, than.medians, strict=True)]


@torch.inference_mode()
def measure(
    run: Callable[[Any], object],
    images: Any,  # noqa: ANN401  # whatever `run` takes
    *,
    device: torch.device,
    seconds: float = SECONDS,
    warm_up: float = 5.0,
) -> Latency:
    """Measure how long a batch takes, from the call until its answer is there.

    It is the wall-clock time that a caller waits: on an accelerator, until all that was queued is done. What the time
    between two events on the device leaves out, launching work from Python and waiting for it, is part of it. Nothing
    else is: garbage is collected before and not meanwhile, and gradients are off.

    Runs go on for `seconds`, and until there are enough for a 99th percentile, but no longer than five times that.

    Args:
        run: takes a batch. Its inputs are on the device already unless copying them is what it is to be timed with.
        images: a batch; or a list or tuple of batches of one size, taken in turn. Where the time depends on the images,
            as in a cascade, they should be real ones in random order: see `shuffled_batches`.
        device: where `run` computes.
        seconds: above 0.
        warm_up: seconds that it may take, after the first run, until times settle: until two successive medians differ
            by less than 3 %. The first run may compile, and takes as long as it takes.

    Raises:
        UsageError: no batch, or batches of several sizes.
    """
    batches, size = _batches(images)
    with _no_collection():
        once = _timer(run, device)
        _settle(once, batches, warm_up)
        times, interruptions = _run(once, itertools.cycle(batches), seconds, ENOUGH, _FEWEST)
    return summarise(times, size, interruptions)


@torch.inference_mode()
def measure_in_turns(
    runs: Sequence[Callable[[Any], object]],
    images: Any,  # noqa: ANN401  # whatever all of `runs` take
    *,
    device: torch.device,
    seconds: float = SECONDS,
    warm_up: float = 5.0,
    rounds: int = ROUNDS,
) -> list[Turns]:
    """Measure several things that are to be compared, in turns: a machine's speed changes from one minute to the next.

    Each is measured as by `measure`, but in as many parts as there are rounds. What compares two of them is the ratio
    of their times within a round.

    Args:
        runs: the first of each round first.
        images: as in `measure`; all of `runs` take them.
        device: as in `measure`.
        seconds: for each of `runs`, all rounds together.
        warm_up: as in `measure`, for each of `runs`.
        rounds: at least 1.

    Raises:
        UsageError: as in `measure`.
    """
    batches, size = _batches(images)
    with _no_collection():
        timers = [_timer(run, device) for run in runs]
        for once in timers:
            time.sleep(_PAUSE)
            _settle(once, batches, warm_up)
        queues = [itertools.cycle(batches) for _ in runs]
        parts: list[list[tuple[list[float], int | None]]] = [[] for _ in runs]
        for _ in range(rounds):
            for once, queue, found in zip(timers, queues, parts, strict=True):
                time.sleep(_PAUSE)
                once(next(queue))  # into caches that are another's
                found.append(_run(once, queue, seconds / rounds, -(-ENOUGH // rounds), 1))
    return [_together(found, size) for found in parts]


def _together(parts: Sequence[tuple[list[float], int | None]], size: int) -> Turns:
    """Return times and interruptions of some turns as one."""
    cuts = [count for _, count in parts if count is not None]
    every = [ms for times, _ in parts for ms in times]
    latency = summarise(every, size, sum(cuts) if len(cuts) == len(parts) else None)
    return Turns(latency, tuple(statistics.median(times) for times, _ in parts))


def _batches(images: Any) -> tuple[Sequence[Any], int]:  # noqa: ANN401  # as in `measure`
    """Return the batches, and how many images are in each; `UsageError` if that differs."""
    batches = images if isinstance(images, list | tuple) else (images,)
    sizes = {len(batch) for batch in batches}
    if len(sizes) != 1:
        raise UsageError(f"times are of batches of one size, and these have {sorted(sizes) or 'none'}")
    return batches, sizes.pop()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage now and not meanwhile."""
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def _run(
    once: _Once, batches: Iterator[Any], seconds: float, enough: int, fewest: int
) -> tuple[list[float], int | None]:
    """Return times for so many seconds, or as much longer as `enough` of them take, and how often others cut in."""
    times, before = list[float](), _interruptions()
    began = perf_counter_ns()
    for batch in batches:
        times.append(once(batch))
        passed = (perf_counter_ns() - began) / 1e9
        if passed >= seconds and (len(times) >= enough or passed >= _LONGER * seconds) and len(times) >= fewest:
            break
    after = _interruptions()
    return times, None if before is None or after is None else after - before


def _timer(run: Callable[[Any], object], device: torch.device) -> _Once:
    """Return a function that runs a batch and returns the milliseconds until its answer is there."""

    def once(batch: Any) -> float:  # noqa: ANN401
        began = perf_counter_ns()
        run(batch)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return (perf_counter_ns() - began) / 1e6

    return once


def _interruptions() -> int | None:
    """Return how often this process lost a processor that it was using; None on Windows, which does not tell."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _settle(once: _Once, batches: Sequence[Any], most: float) -> None:
    """Run the first batches again and again until their median time stays what it is, or for `most` seconds."""
    once(batches[0])
    began, before = perf_counter_ns(), float("inf")
    while perf_counter_ns() - began < 1e9 * most:
        started, times = perf_counter_ns(), list[float]()
        for batch in itertools.cycle(batches):  # from the first, so that each window has the same work
            times.append(once(batch))
            if len(times) >= _WINDOW_RUNS and perf_counter_ns() - started >= 1e9 * _WINDOW:
                break
        median = statistics.median(times)
        if abs(median - before) <= _SETTLED * median:
            return
        before = median


def shuffled_batches(pixels: Pixels, batch: int, *, seed: int, device: torch.device) -> list[torch.Tensor]:
    """Return the images of a split in random order, in batches on a device.

    Args:
        pixels: uint8 `[N, H, W, 3]`.
        batch: images B in each, at most N.
        seed: of the order.
        device: where they go.

    Returns:
        As many uint8 `[B, H, W, 3]` as are full.

    Raises:
        UsageError: there are not as many images as one batch has.
    """
    if not 1 <= batch <= len(pixels):
        raise UsageError(f"batches of {batch} images cannot be made of {len(pixels)} images")
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.from_numpy(pixels)[order[: len(pixels) // batch * batch]].to(device)
    return list(torch.split(shuffled, batch))
