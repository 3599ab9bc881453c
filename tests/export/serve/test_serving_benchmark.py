"""The client of the benchmark tells good answers from bad ones. What it measures is printed by itself."""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest

from benchmarks.serving import bare, graph, load, memory, refused, shortfalls, table
from benchmarks.serving_client import Connection, infer, infer_all, picture, right
from benchmarks.serving_malformed import malformed
from export.runtime import open_session
from export.serve.limits import Limits
from tests.conftest import random_split
from tests.export.serve.conftest import FakeSession, answers, site, write_graph

IMAGES = random_split(8, size=32).images
PIXELS = IMAGES // 2 + np.arange(0, 120, 15, dtype=np.uint8)[:, None, None, None]  # of different colours


def test_good_requests_are_good() -> None:
    wanted = answers(PIXELS)[0]

    async def ask(port: int) -> None:
        connection = Connection(port)
        for binary in (False, True):
            for packed in (False, True):
                status, body = await connection.ask(infer("tiny", PIXELS[:3], binary=binary, packed=packed))
                assert status == 200
                assert right(body, wanted[:3], FakeSession.classes)
                assert not right(body, wanted[3:6], FakeSession.classes)
        status, body = await connection.ask(infer_all("tiny", PIXELS[:3]))
        assert status == 200
        assert b'"member_probs"' in body
        assert right(body, wanted[:3], FakeSession.classes)
        assert not right(body, wanted[3:6], FakeSession.classes)
        status, body = await connection.ask(picture(PIXELS[0]))
        assert status == 200
        assert right(body, wanted[:1], FakeSession.classes)
        assert not right(body, wanted[3:4], FakeSession.classes)
        assert not right(body, wanted[:1, ::-1], FakeSession.classes), "the same numbers, of other classes"
        assert not right(body, wanted[:1], (*FakeSession.classes[:-1], "unicorn"))
        connection.close()

    with site(FakeSession(input_size=(32, 32)), Limits()) as found:
        asyncio.run(ask(found.port))


def test_every_malformed_request_is_refused_by_a_sentence_of_its_own() -> None:
    bad = malformed("tiny", PIXELS[:2], random.Random(0))
    said: dict[str, str] = {}

    async def ask(port: int) -> None:
        connection = Connection(port)
        for kind, content in bad.items():
            status, body = await connection.ask(content)
            assert refused(status, body), (kind, status, body)
            said[kind] = json.loads(body)["error"]
            status, body = await connection.ask(infer("tiny", PIXELS[:3]))
            assert status == 200, f"after {kind}"
        connection.close()

    with site(FakeSession(input_size=(32, 32)), Limits()) as found:
        asyncio.run(ask(found.port))
    assert len(bad) >= 60
    assert len(set(bad.values())) == len(bad)
    assert len(set(said.values())) > 40


def test_what_is_a_refusal() -> None:
    assert refused(400, b'{"error": "it is wrong"}')
    assert not refused(200, b'{"error": "it is wrong"}')
    assert not refused(500, b'{"error": "it is wrong"}')
    assert not refused(400, b'{"detail": "it is wrong"}')
    assert not refused(400, b'{"error": ""}')


def test_memory_is_of_all_processes_below() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    grandchild = (
        "import socket, sys; held = b'x' * 100_000_000; one = socket.create_server(('127.0.0.1', 0)); "
        "print(one.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with Popen([sys.executable, "-c", child, grandchild], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        found = memory(process.pid, int(process.stdout.readline()))
        assert 100_000_000 < found["replicas"] < found["all"] < 200_000_000
        assert memory(os.getpid(), 1)["all"] > memory(process.pid, 1)["all"] > 100_000_000
        assert memory(process.pid, 1)["replicas"] == 0


def test_what_is_measured(tmp_path: Path) -> None:
    parts = [PIXELS[n : n + 2] for n in range(4)]
    with site(FakeSession(input_size=(32, 32)), Limits()) as found:
        many, said = asyncio.run(load(found.port, "tiny", parts, 0.3))
    assert many["images_per_second"] == pytest.approx(8 / (many["median_ms"] / 1000), rel=0.9)
    assert 0 < many["client_cpu"] <= 1.5
    wanted = answers(PIXELS)[0]
    assert {client for client, _, _ in said} == {0, 1, 2, 3}
    for client, status, body in said:
        assert status == 200
        assert right(body, wanted[client : client + 2], FakeSession.classes)
    session = open_session(write_graph(tmp_path / "tiny.onnx", size=(32, 32)), device="cpu")
    alone = bare(session, np.repeat(PIXELS, 8, 0), 0.1)
    one = {"bare": alone, "many": many, "singles": many, "single": many}
    report = {"graphs": {"/x/tiny.onnx": {"rounds": [one | {"ratios": {"throughput": 0.9, "added_ms": 1.0}}]}}}
    mixed = {"requests": 10, "wrong": 0, "statuses": {}, "malformed": {}, "memory_mb": {"all": [1, 2]}}
    assert "90.0%" in list(table(report))[1]
    last = list(table({**report, "mixed": {**mixed, "memory_growth": {"all": 1.0}}}))[-1]
    assert last.startswith("10 mixed requests: 0 answered wrongly")
    assert last.endswith("all 1 2 MB (+100.0%)")


def test_shortfalls_are_said() -> None:
    rounds = [{"ratios": {"throughput": share, "added_ms": added}} for share, added in ((0.7, 9), (0.9, 1), (0.8, 4.9))]
    tiny = {"rounds": rounds, "wrong": 0}
    report = {"graphs": {"tiny": tiny}}
    assert list(shortfalls(report, {"tiny": 0.8})) == []
    assert list(shortfalls(report, {"tiny": 0.81})) == ["tiny: 80.0% of the bare session, not 81%"]
    rounds[1]["ratios"]["added_ms"] = 5
    assert list(shortfalls(report, {})) == ["tiny: 5.0 ms over the bare session's latency"]
    mixed = {"wrong": 1, "first_wrong": ["cut: 200"], "memory_growth": {"all": 0.04, "replicas": 0.05}}
    assert list(shortfalls({"graphs": {}, "mixed": mixed}, {})) == [
        "1 wrong answers to mixed requests, such as: cut: 200",
        "memory of replicas grew by 5.0%",
    ]
    rounds[1]["ratios"]["added_ms"] = 1
    assert list(shortfalls({"graphs": {"tiny": {**tiny, "wrong": 2}}}, {})) == ["tiny: 2 wrong answers"]


def test_a_graph_may_have_a_share() -> None:
    assert graph("/a/b.onnx=0.9") == (Path("/a/b.onnx"), 0.9)
    assert graph("/a/b.onnx") == (Path("/a/b.onnx"), None)
