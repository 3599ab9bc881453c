"""The client of the benchmark tells good answers from bad ones. What it measures is printed by itself."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import bare, load, memory, processes, table
from benchmarks.serving_client import Connection, garble, infer, picture, right
from export.runtime import open_session
from export.serve.limits import Limits
from tests.conftest import random_split
from tests.export.serve.conftest import FakeSession, answers, site, write_graph

IMAGES = random_split(8, size=32).images
PIXELS = IMAGES // 2 + np.arange(0, 120, 15, dtype=np.uint8)[:, None, None, None]  # of different colours


def test_good_requests_are_good_and_bad_ones_are_refused() -> None:
    wanted = answers(PIXELS)[0]
    statuses: Counter[int] = Counter()

    async def ask(port: int) -> None:
        connection, rng = Connection(port), random.Random(0)
        good = [
            *(
                infer("tiny", PIXELS[:3], binary=binary, packed=packed)
                for binary in (False, True)
                for packed in (False, True)
            ),
            picture(PIXELS[0]),
        ]
        for content in good:
            status, body = await connection.ask(content)
            assert status == 200
            assert right(body, wanted[:3] if b'"outputs"' in body else wanted[:1])
            assert not right(body, wanted[3:6] if b'"outputs"' in body else wanted[3:4])
            for _ in range(40):
                statuses[(await connection.ask(garble(content, rng)))[0]] += 1
        connection.close()

    with site(FakeSession(input_size=(32, 32)), Limits()) as found:
        asyncio.run(ask(found.port))
    assert set(statuses) == {400, 404, 415}


def test_what_is_measured(tmp_path: Path) -> None:
    with site(FakeSession(input_size=(32, 32)), Limits()) as found:
        many = asyncio.run(load(found.port, "tiny", 4, PIXELS[:2], 0.3))
        (own,) = processes(found.port)
    assert many["images_per_second"] == pytest.approx(8 / (many["median_ms"] / 1000), rel=0.9)
    assert 0 < many["client_cpu"] <= 1.5
    assert memory(own) > 10_000_000
    session = open_session(write_graph(tmp_path / "tiny.onnx", size=(32, 32)), device="cpu")
    alone = bare(session, np.repeat(PIXELS, 8, 0), 0.1)
    one = {"bare": alone, "many": many, "single": many, "ratios": {"throughput": 0.9, "added_ms": 1.0}}
    report = {"tiny": {"rounds": [one]}}
    mixed = {"requests": 10, "wrong": 0, "statuses": {}, "memory_mb": [1, 1], "memory_growth": 0.0}
    assert "90.0%" in list(table(report))[1]
    assert list(table({**report, "mixed": mixed}))[-1].startswith("10 mixed requests: 0 answered wrongly")
