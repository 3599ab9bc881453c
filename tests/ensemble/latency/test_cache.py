"""The cache: what is known is not measured again, and nothing is known of other machines."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemble.latency import cache as module
from ensemble.latency.cache import Known, LatencyCache
from ensemble.latency.hardware import Hardware, versions
from ensemble.latency.workload import Workload
from tests.conftest import files_up_to
from tests.ensemble.latency.conftest import CPU, LATENCY, OTHERS, WORK, Bench, rows
from zoo.errors import StorageError, UsageError

pytestmark = pytest.mark.usefixtures("hurry")


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


def test_another_allocator_is_measured_again(cache: LatencyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep(WORK, LATENCY)
    now = LatencyCache(CPU).setup["allocator"]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    other = LatencyCache(CPU)
    assert other.setup["allocator"] == ", ".join([*([now] if now else []), "MALLOC_ARENA_MAX=7"])
    assert other.find(WORK) is None
    assert Bench().known(other).fresh
    assert cache.find(WORK) is not None


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
        {"allocator": None},
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
