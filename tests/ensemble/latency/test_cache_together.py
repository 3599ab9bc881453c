"""The cache among several processes: they wait for each other, and lose nothing."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from filelock import FileLock

from ensemble.latency.cache import Known, LatencyCache, cached
from tests.ensemble.latency.conftest import CPU, LATENCY, OTHERS, WORK, Bench, rows

pytestmark = pytest.mark.usefixtures("hurry")


def test_processes_that_write_at_once_lose_nothing(cache: LatencyCache) -> None:
    program = """
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
sys.modules["torch"] = SimpleNamespace(get_num_threads=lambda: 1, __spec__=ModuleSpec("torch", None))  # which is slow
from ensemble.latency.cache import LatencyCache
from ensemble.latency.times import summarise
from ensemble.latency.workload import Workload
cache = LatencyCache("cpu")
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    cache.keep(Workload({"name": sys.argv[1]}, "none", 1 + number, "fp32", "frozen"), summarise([1.0, 2.0], 1 + number))
"""
    words = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with ExitStack() as running:
        writers = [
            running.enter_context(subprocess.Popen([*words, name], stdin=pipe, stdout=pipe, text=True))
            for name in ("a", "b", "c")
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.communicate("go\n")
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(rows(cache)) == 30


def test_who_writes_waits_for_its_turn_and_reads_then(cache: LatencyCache) -> None:
    cache.path.parent.mkdir(parents=True)
    with FileLock(cache.path.with_suffix(".lock")):
        writing = threading.Thread(target=lambda: LatencyCache(CPU).keep(OTHERS[0], LATENCY))
        writing.start()
        writing.join(0.3)
        measured_by_the_other(cache)
    writing.join(10)
    assert len(rows(cache)) == 2


def test_two_that_want_the_same_measure_it_once(cache: LatencyCache, caplog: pytest.LogCaptureFixture) -> None:
    """One waits for the other, as both would be slower at the same time, and takes what it finds then."""
    results: list[Known] = []
    bench = Bench()
    other = FileLock(cache.path.with_suffix(".lock"))
    cache.path.parent.mkdir(parents=True)
    with caplog.at_level(logging.WARNING), other:
        waiting = threading.Thread(target=lambda: results.append(bench.known(LatencyCache(CPU))))
        waiting.start()
        while not caplog.messages:
            assert waiting.is_alive()
            waiting.join(0.01)
        measured = measured_by_the_other(cache)
    waiting.join(10)
    assert caplog.messages == ["waiting for another process that measures latencies here"]
    assert results == [measured]
    assert bench.made == 0


def measured_by_the_other(cache: LatencyCache) -> Known:
    """File a latency as the process would that holds the lock."""
    kept = LatencyCache(CPU, cache.path.parent / "copy")
    known = kept.keep(WORK, LATENCY)
    cache.path.write_bytes(kept.path.read_bytes())
    return replace(known, fresh=False)


def test_an_error_while_measuring_lets_the_next_one_in(cache: LatencyCache) -> None:
    def make() -> tuple[Callable[[Any], object], torch.Tensor]:
        raise RuntimeError("no such network")

    with pytest.raises(RuntimeError, match="no such network"):
        cached(cache, WORK, make)
    assert Bench().known(LatencyCache(CPU)).fresh
