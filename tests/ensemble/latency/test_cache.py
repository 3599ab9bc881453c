"""The cache: what is known is not measured again, and nothing is known of other machines."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from ensemble.latency import cache as module
from ensemble.latency import measure
from ensemble.latency.cache import Known, LatencyCache, cached
from ensemble.latency.hardware import Hardware, versions
from ensemble.latency.times import summarise
from ensemble.latency.workload import Workload
from tests.conftest import files_up_to
from zoo.errors import StorageError, UsageError

CPU = torch.device("cpu")
WORK = Workload({"architecture": "fastnet", "classes": 10}, "flip", 2)
LATENCY = summarise([float(n) for n in range(1, 200)], 2, 3)
OTHERS = [
    replace(WORK, what={"architecture": "fastnet", "classes": 100}),
    replace(WORK, views="none"),
    replace(WORK, precision="bf16"),
    replace(WORK, runtime="onnx"),
    replace(WORK, images="cifar10 test, seed 0"),
]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm up for no longer than it takes to see how."""
    monkeypatch.setattr(measure, "_WINDOW", 0.0)


@pytest.fixture
def cache() -> LatencyCache:
    return LatencyCache(CPU)


class Bench:
    """Something to measure that counts how often it was made and ran."""

    def __init__(self, batch: int = 2) -> None:
        self.made = self.ran = 0
        self.images = torch.zeros(batch)

    def make(self) -> tuple[Callable[[torch.Tensor], None], torch.Tensor]:
        self.made += 1
        return self.run, self.images

    def run(self, batch: torch.Tensor) -> None:
        assert batch is self.images
        self.ran += 1

    def known(self, cache: LatencyCache, workload: Workload = WORK, *, remeasure: bool = False) -> Known:
        return cached(cache, workload, self.make, seconds=0.01, remeasure=remeasure)


def rows(cache: LatencyCache) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(cache.path.read_text(encoding="utf-8"))["latencies"]
    return table


def test_nothing_is_known_at_first(cache: LatencyCache, zoo_home: Path) -> None:
    assert cache.find(WORK) is None
    assert not zoo_home.exists()


def test_what_is_kept_is_found_by_others(cache: LatencyCache, zoo_home: Path) -> None:
    kept = cache.keep(WORK, LATENCY)
    found = LatencyCache(CPU).find(WORK)
    assert found == Known(LATENCY, kept.measured, fresh=False)
    assert kept.fresh
    assert datetime.now(UTC) - datetime.fromisoformat(kept.measured) < timedelta(minutes=1)
    assert cache.path == zoo_home / "latency" / f"{cache.hardware.key}.json"


@pytest.mark.parametrize("other", [*OTHERS, replace(WORK, batch=1)])
def test_another_workload_is_not_known(cache: LatencyCache, other: Workload) -> None:
    cache.keep(WORK, LATENCY)
    assert cache.find(other) is None


def test_it_is_measured_once(cache: LatencyCache) -> None:
    bench = Bench()
    first = bench.known(cache)
    ran = bench.ran
    assert first.fresh
    assert ran >= 100
    again = bench.known(LatencyCache(CPU))
    assert (again.latency, again.measured, again.fresh) == (first.latency, first.measured, False)
    assert (bench.made, bench.ran) == (1, ran)


def test_it_is_measured_again_on_request(cache: LatencyCache) -> None:
    cache.keep(WORK, LATENCY)
    bench = Bench()
    found = bench.known(cache, remeasure=True)
    assert found.fresh
    assert found.latency != LATENCY
    assert cache.find(WORK) == replace(found, fresh=False)
    assert len(rows(cache)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "Other CPU"},
        {"cores": 99},
        {"processors": 0.5},
        {"system": "Plan 9"},
        {"accelerator": "A GPU"},
        {"accelerator": "A GPU", "driver": "1"},
    ],
)
def test_other_hardware_has_a_file_of_its_own(
    cache: LatencyCache, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    cache.keep(WORK, LATENCY)
    before = cache.path.read_bytes()
    elsewhere = replace(cache.hardware, **change)
    monkeypatch.setattr(module, "hardware", lambda _device: elsewhere)
    there = LatencyCache(CPU)
    assert there.path != cache.path
    assert Bench().known(there).fresh
    assert cache.path.read_bytes() == before


def test_a_file_that_came_from_elsewhere_is_not_believed(
    cache: LatencyCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its name says: somebody copied it, or two hashes begin alike."""
    cache.keep(WORK, LATENCY)
    elsewhere = replace(cache.hardware, cpu="Other CPU")
    monkeypatch.setattr(Hardware, "key", cache.hardware.key)
    monkeypatch.setattr(module, "hardware", lambda _device: elsewhere)
    there = LatencyCache(CPU)
    assert there.path == cache.path
    assert Bench().known(there).fresh
    assert caplog.messages[0].endswith(f"kept as {cache.path.name}.damaged, measured again")


def test_more_memory_is_no_other_hardware(cache: LatencyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep(WORK, LATENCY)
    monkeypatch.setattr(module, "hardware", lambda _device: replace(cache.hardware, memory=1.0))
    assert LatencyCache(CPU).find(WORK) is not None


@pytest.mark.parametrize("name", ["menagerie", "python", "torch", "onnxruntime"])
def test_other_versions_are_measured_again_and_both_are_kept(
    cache: LatencyCache, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cache.keep(WORK, LATENCY)
    newer = {**versions(), name: "99.9"}
    monkeypatch.setattr(module, "versions", lambda: newer)
    assert LatencyCache(CPU).find(WORK) is None
    assert Bench().known(LatencyCache(CPU)).fresh
    assert len(rows(cache)) == 2
    assert cache.find(WORK) is not None


def test_other_threads_are_measured_again(cache: LatencyCache) -> None:
    cache.keep(WORK, LATENCY)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert LatencyCache(CPU).find(WORK) is None
    finally:
        torch.set_num_threads(threads)
    assert LatencyCache(CPU).find(WORK) is not None


def test_a_folder_can_be_given(tmp_path: Path, zoo_home: Path) -> None:
    cache = LatencyCache(CPU, tmp_path / "here")
    Bench().known(cache)
    assert cache.path.parent == tmp_path / "here"
    assert not zoo_home.exists()


DAMAGED: dict[str, Callable[[str], str]] = {
    "empty": lambda _text: "",
    "cut": lambda text: text[: len(text) // 2],
    "no table": lambda _text: "[1, 2]",
    "deep": lambda _text: "[" * 100_000,
    "another format": lambda text: text.replace("menagerie.latency/1", "menagerie.latency/0"),
    "no hardware": lambda text: text.replace('"hardware"', '"software"'),
    "hardware of another kind": lambda text: text.replace('"hardware": {', '"hardware": 7, "x": {'),
    "no latencies": lambda text: text.replace('"latencies"', '"others"'),
    "latencies of another kind": lambda text: text.replace('"latencies": {', '"latencies": 7, "x": {'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_put_aside_and_measured_again(
    cache: LatencyCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep(WORK, LATENCY)
    text = DAMAGED[damage](cache.path.read_text(encoding="utf-8"))
    cache.path.write_text(text, encoding="utf-8")
    assert cache.find(WORK) is None
    assert Bench().known(cache).fresh
    (message,) = caplog.messages
    assert message.startswith(f"{cache.path} is damaged (")
    assert "\n" not in message
    aside = cache.path.with_name(f"{cache.path.name}.damaged")
    assert aside.read_text(encoding="utf-8") == text
    assert not Bench().known(cache).fresh
    assert len(caplog.messages) == 1


def test_bytes_that_are_no_text_are_damage(cache: LatencyCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(b"\xff\xfe\x00")
    assert Bench().known(cache).fresh
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"latency": None},
        {"latency": {}},
        {"latency": {**LATENCY.to_dict(), "runs": -1}},
        {"latency": {**LATENCY.to_dict(), "batch": 3}},
        {"measured": "yesterday"},
        {"measured": None},
        {"workload": {}},
        {"threads": -1},
    ],
)
def test_a_damaged_row_costs_no_other(
    cache: LatencyCache, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache.keep(WORK, LATENCY)
    content = json.loads(cache.path.read_text(encoding="utf-8"))
    (name,) = content["latencies"]
    content["latencies"][name].update(change)
    cache.path.write_text(json.dumps(content), encoding="utf-8")
    cache.keep(OTHERS[0], LATENCY)
    assert caplog.messages == []
    assert Bench().known(cache).fresh
    (message,) = caplog.messages
    assert message.startswith(f"a latency in {cache.path} is damaged (")
    assert [cache.find(work) is not None for work in (WORK, OTHERS[0])] == [True, True]


def test_batches_of_another_size_than_said_are_refused(cache: LatencyCache) -> None:
    with pytest.raises(UsageError, match="batches of 5 were measured, and the workload has 2"):
        Bench(5).known(cache)
    assert cache.find(WORK) is None


def test_a_cache_that_cannot_be_written_costs_no_result(
    cache: LatencyCache, zoo_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zoo_home.write_text("a file where the folder should be")
    found = Bench().known(cache)
    assert found.fresh
    assert found.latency.runs >= 100
    (message,) = caplog.messages
    assert message.startswith(f"cannot write {cache.path}")
    assert message.endswith("what was measured is not kept")


def test_a_full_disk_leaves_the_file_as_it_was(cache: LatencyCache) -> None:
    cache.keep(WORK, LATENCY)
    before = cache.path.read_bytes()
    with files_up_to(1000), pytest.raises(StorageError, match="cannot write"):
        cache.keep(OTHERS[0], LATENCY)
    assert cache.path.read_bytes() == before
    cache.keep(OTHERS[0], LATENCY)
    assert len(rows(cache)) == 2, "and nobody is kept out"


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
    cache.keep(Workload({"name": sys.argv[1]}, "none", 1 + number), summarise([1.0, 2.0], 1 + number))
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
