"""Measuring, mostly by a clock that only what runs can move."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import chain, groupby, repeat

import numpy as np
import pytest
import torch

from ensemble.latency import measure as module
from ensemble.latency.measure import Turns, measure, measure_in_turns, shuffled_batches
from ensemble.latency.times import summarise
from zoo.errors import UsageError

CPU = torch.device("cpu")
ONE = torch.zeros(1)


class Clock:
    """Nanoseconds that pass only while something runs."""

    def __init__(self) -> None:
        self.now = 0
        self.calls = 0

    def taking(self, milliseconds: Iterable[float]) -> Callable[[object], None]:
        """Return something that takes these times, one after the other."""
        times = iter(milliseconds)

        def run(_batch: object) -> None:
            self.calls += 1
            self.now += round(1e6 * next(times))

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "perf_counter_ns", lambda: made.now)
    return made


def test_times_are_those_of_the_runs(clock: Clock) -> None:
    found = measure(clock.taking(repeat(8.0)), ONE, device=CPU, seconds=2)
    assert set(found.samples) == {8.0}
    assert (found.batch, found.runs, found.mean_ms, found.spread) == (1, 250, 8.0, 0.0)
    assert found.note is None


def test_nothing_of_the_warm_up_is_counted(clock: Clock) -> None:
    """The first run compiles for a minute, which is not the warm-up's time; then times fall, and settle."""
    falling = [60_000.0] + [50.0] * 3 + [40.0] * 3 + [30.0] * 4
    found = measure(clock.taking(chain(falling, repeat(20.0))), ONE, device=CPU, seconds=2)
    assert set(found.samples) == {20.0}


def test_a_warm_up_that_does_not_settle_ends(clock: Clock) -> None:
    growing = (10.0 + 0.5 * n for n in range(10_000))
    found = measure(clock.taking(growing), ONE, device=CPU, seconds=1, warm_up=3)
    assert found.note is not None
    assert "medians differed" in found.note


def test_slow_runs_go_on_until_there_is_a_p99(clock: Clock) -> None:
    found = measure(clock.taking(repeat(90.0)), ONE, device=CPU, seconds=2)
    assert (found.runs, found.note) == (100, None)


def test_but_not_longer_than_five_times_as_long(clock: Clock) -> None:
    found = measure(clock.taking(repeat(500.0)), ONE, device=CPU, seconds=2)
    assert found.runs == 20
    assert found.note == "20 runs are too few for a p99, which needs 100"


def test_three_runs_are_the_fewest(clock: Clock) -> None:
    assert measure(clock.taking(repeat(60_000.0)), ONE, device=CPU, seconds=2).runs == 3


def test_the_tail_is_seen(clock: Clock) -> None:
    """One in fifty takes ten times as long, which the mean hides and the 99th percentile does not."""
    times = (5.0 if n % 50 else 50.0 for n in range(10**6))
    found = measure(clock.taking(times), ONE, device=CPU, seconds=3)
    assert (found.median_ms, found.p90_ms, found.p99_ms) == (5.0, 5.0, 50.0)
    assert found.mean_ms == pytest.approx(5.9, rel=0.02)
    assert found.images_per_second == pytest.approx(1e3 / 5.9, rel=0.02)


def test_batches_are_taken_in_turn(clock: Clock) -> None:
    """As a cascade's: hard images take longer, and each has its share."""
    batches = [torch.full((4,), float(n)) for n in range(10)]

    def run(batch: torch.Tensor) -> None:
        clock.now += round(1e6 * (1 + batch[0].item()))

    found = measure(run, batches, device=CPU, seconds=5.5)
    assert (found.runs, found.batch) == (1000, 4)
    assert found.mean_ms == 5.5
    assert [found.samples[q] for q in (5, 15, 55, 95)] == [1.0, 2.0, 6.0, 10.0]
    assert found.spread == 0.0


def test_a_busy_machine_is_noticed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However steady its times are."""
    counts = iter((1000, 1200))
    monkeypatch.setattr(module, "_interruptions", lambda: next(counts))
    found = measure(clock.taking(repeat(10.0)), ONE, device=CPU, seconds=2)
    assert (found.interruptions, found.spread) == (100.0, 0.0)
    assert found.note == "the machine was busy: other processes cut in 100 times a second"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pauses between turns."""
    monkeypatch.setattr(module, "_PAUSE", 0)


@pytest.mark.usefixtures("at_once")
def test_turns_take_turns(clock: Clock) -> None:
    """Both are warmed up before the first round; in each, both run for a fifth of the time, the first run untimed."""
    ran: list[str] = []

    def taking(name: str, ms: float) -> Callable[[object], None]:
        takes = clock.taking(repeat(ms))

        def run(batch: object) -> None:
            ran.append(name)
            takes(batch)

        return run

    slow, fast = measure_in_turns([taking("slow", 10.0), taking("fast", 4.0)], ONE, device=CPU, seconds=2, rounds=5)
    assert (slow.latency.runs, fast.latency.runs) == (5 * 40, 5 * 100)
    assert (set(slow.latency.samples), set(fast.latency.samples)) == ({10.0}, {4.0})
    assert (slow.medians, fast.medians) == ((10.0,) * 5, (4.0,) * 5)
    assert fast.times_faster(slow) == [2.5] * 5
    warm_up = [name for name, group in groupby(ran[: -5 * 142])]
    assert warm_up == ["slow", "fast"]
    assert [(name, len(list(group))) for name, group in groupby(ran[-5 * 142 :])] == [("slow", 41), ("fast", 101)] * 5


@pytest.mark.usefixtures("at_once")
def test_a_machine_that_slows_down_slows_all_that_take_turns(clock: Clock) -> None:
    """One after the other, the second would look a third slower than it is."""
    began = clock.now

    def taking(ms: float) -> Callable[[object], None]:
        def run(_batch: object) -> None:
            clock.now += round(1e6 * ms * (1 + (clock.now - began) / 1e10))

        return run

    slow, fast = measure_in_turns([taking(6.0), taking(3.0)], ONE, device=CPU, seconds=2, rounds=10)
    assert slow.medians[-1] > 1.3 * slow.medians[0]
    assert fast.times_faster(slow) == pytest.approx([2.0] * 10, rel=0.04)


@pytest.mark.usefixtures("at_once")
def test_slow_turns_go_on_until_there_is_a_p99_of_all(clock: Clock) -> None:
    (found,) = measure_in_turns([clock.taking(repeat(90.0))], ONE, device=CPU, seconds=2, rounds=5)
    assert (found.latency.runs, found.latency.note) == (100, None)
    (found,) = measure_in_turns([clock.taking(repeat(60_000.0))], ONE, device=CPU, seconds=2, rounds=5)
    assert found.latency.runs == 5


@pytest.mark.usefixtures("at_once")
def test_everyone_has_every_batch_in_turn(clock: Clock) -> None:
    """Going on in a round where the one before ended."""
    batches, seen = [torch.full((2,), float(n)) for n in range(7)], list[float]()

    def run(batch: torch.Tensor) -> None:
        seen.append(batch[0].item())
        clock.now += 10_000_000

    (found,) = measure_in_turns([run], batches, device=CPU, seconds=1, rounds=5)
    assert found.latency.batch == 2
    last = seen[-5 * 21 :]
    assert last == [float(n % 7) for n in range(len(last))]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("each", "together"), [([0, 4] * 5, 10.0), ([None] * 10, None)])
def test_interruptions_of_all_turns_count(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, each: list[int | None], together: float | None
) -> None:
    counts = iter(each)
    monkeypatch.setattr(module, "_interruptions", lambda: next(counts))
    (found,) = measure_in_turns([clock.taking(repeat(20.0))], ONE, device=CPU, seconds=2, rounds=5)
    assert found.latency.interruptions == together


def test_turns_of_several_sizes_have_no_latency() -> None:
    with pytest.raises(UsageError, match=r"of one size, and these have \[1, 2\]"):
        measure_in_turns([lambda _batch: pytest.fail("this must not run")], [ONE, torch.zeros(2)], device=CPU)


def test_rounds_are_compared_one_by_one() -> None:
    latency = summarise([1.0], 1)
    assert Turns(latency, (1.0, 4.0)).times_faster(Turns(latency, (3.0, 2.0))) == [3.0, 0.5]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_losing_a_processor_counts() -> None:
    """Two processes that may only use one must take turns."""
    allowed = os.sched_getaffinity(0)
    before = module._interruptions()
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for pid in (0, rival.pid):
            os.sched_setaffinity(pid, {min(allowed)})
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, allowed)
    after = module._interruptions()
    assert before is not None
    assert after is not None
    assert after - before >= 3


@pytest.mark.parametrize(("images", "says"), [([], "none"), ([ONE, torch.zeros(2)], r"\[1, 2\]")])
def test_batches_of_several_sizes_have_no_latency(images: list[torch.Tensor], says: str) -> None:
    with pytest.raises(UsageError, match=f"of one size, and these have {says}"):
        measure(lambda _batch: pytest.fail("this must not run"), images, device=CPU)


def test_no_gradients_and_no_garbage_collection_meanwhile() -> None:
    seen = set()
    weight = torch.ones(1, requires_grad=True)

    def run(batch: torch.Tensor) -> None:
        seen.add((gc.isenabled(), torch.is_inference_mode_enabled(), (weight * batch).requires_grad))

    measure(run, ONE, device=CPU, seconds=0.01)
    assert seen == {(False, True, False)}
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_garbage_is_collected_again_after_an_error() -> None:
    def run(_batch: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure(run, ONE, device=CPU)
    assert gc.isenabled()


def test_who_does_not_collect_is_left_alone() -> None:
    gc.disable()
    try:
        measure(lambda batch: batch, ONE, device=CPU, seconds=0.01)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_sleep_takes_as_long_as_it_sleeps() -> None:
    found = measure(lambda _batch: time.sleep(0.002), ONE, device=CPU, seconds=0.3)
    assert found.samples[0] >= 2.0
    assert found.median_ms < 20
    assert found.runs >= 100


def test_it_waits_for_an_accelerator(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a call at once, and works until somebody waits for it."""

    def wait(device: torch.device) -> None:
        assert device == torch.device("cuda", 0)
        clock.now += 7_000_000

    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    found = measure(clock.taking(repeat(1.0)), ONE, device=torch.device("cuda", 0))
    assert set(found.samples) == {8.0}


@pytest.mark.gpu
def test_a_gpus_time_is_its_share_of_many_runs() -> None:
    device = torch.device("cuda")
    square = torch.rand(4096, 4096, device=device)

    def run(matrix: torch.Tensor) -> torch.Tensor:
        return matrix @ matrix @ matrix

    found = measure(run, square, device=device, seconds=0.5)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(50):
        run(square)
    torch.cuda.synchronize()
    assert found.median_ms == pytest.approx(1e3 * (time.perf_counter() - began) / 50, rel=0.2)


PIXELS = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.mark.parametrize(("batch", "batches"), [(1, 10), (3, 3), (10, 1)])
def test_shuffled_batches_are_full_and_have_each_image_once(batch: int, batches: int) -> None:
    found = shuffled_batches(PIXELS, batch, seed=1, device=CPU)
    assert [tuple(b.shape) for b in found] == [(batch, 1, 1, 3)] * batches
    assert found[0].dtype == torch.uint8
    seen = torch.cat(found)[:, 0, 0, 0].tolist()
    assert len(set(seen)) == batch * batches
    assert seen != sorted(seen)


def test_the_order_is_the_seeds() -> None:
    orders = {tuple(torch.cat(shuffled_batches(PIXELS, 1, seed=s, device=CPU)).ravel().tolist()) for s in (0, 1, 0)}
    assert len(orders) == 2


@pytest.mark.parametrize("batch", [0, 11])
def test_batches_that_cannot_be_filled_are_refused(batch: int) -> None:
    with pytest.raises(UsageError, match=f"batches of {batch} images cannot be made of 10 images"):
        shuffled_batches(PIXELS, batch, seed=0, device=CPU)
