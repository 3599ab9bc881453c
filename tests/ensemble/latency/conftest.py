"""What the tests of the cache share."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from ensemble.latency import measure
from ensemble.latency.cache import Known, LatencyCache, cached
from ensemble.latency.times import summarise
from ensemble.latency.workload import Workload

CPU = torch.device("cpu")
WORK = Workload({"architecture": "fastnet", "classes": 10}, "flip", 2, "fp32", "frozen")
LATENCY = summarise([float(n) for n in range(1, 200)], 2, 3)
OTHERS = [
    replace(WORK, what={"architecture": "fastnet", "classes": 100}),
    replace(WORK, views="none"),
    replace(WORK, precision="bf16"),
    replace(WORK, runtime="onnx"),
    replace(WORK, images="cifar10 test, seed 0"),
]


@pytest.fixture
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
