"""Where requests are read and pictures unpacked: beside the event loop, in time, and for nobody who has gone."""

import concurrent.futures
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest

from export.serve import endpoints
from export.serve.inference import Inference, parse_inference
from export.serve.limits import Limits
from export.serve.served import Loaded
from tests.export.serve.conftest import (
    INTERFACE,
    MEMBERS,
    SIZE,
    FakeSession,
    Images,
    Site,
    infer_body,
    site,
    some_images,
)
from tests.export.serve.test_pictures import encoded

INFER = "/v2/models/tiny/infer"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Slow:
    """Decoding that ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.go = threading.Event()
        monkeypatch.setattr(endpoints, "picture_of", self)

    def __call__(self, body: bytes, *_: object, **_more: object) -> Images:
        self.begun.append(body.decode())
        self.go.wait(10)
        return np.zeros((1, *SIZE, 3), np.uint8)


def send(found: Site, body: bytes) -> socket.socket:
    """Send a picture, and do not wait for the answer."""
    connection = socket.create_connection(("127.0.0.1", found.port))
    connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_large_json_is_read_in_a_thread_and_small_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []

    def noted(*arguments: object) -> Inference:
        where.append(threading.current_thread().name.partition("_")[0])
        return parse_inference(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(endpoints, "parse_inference", noted)
    with site() as found:
        body, headers = infer_body(some_images(16))
        assert found.ask("POST", INFER, body, headers).status == 200
        body, _ = infer_body(some_images(1), binary=False, parameters={"x": "x" * 40_000})
        for more in ({}, {"Inference-Header-Content-Length": str(len(body))}):
            assert found.ask("POST", INFER, body, more).status == 200
    assert where[1:] == ["json", "json"]
    assert where[0] != "json"


def test_hostile_json_is_refused_before_it_is_read() -> None:
    with site(limits=Limits(max_batch=2000)) as found:
        body = b"[" + b"[]," * 500_000 + b"0]"
        for headers in ({}, {"Inference-Header-Content-Length": str(len(body))}):
            refused = found.ask("POST", INFER, body, headers)
            assert (refused.status, refused.error[:26]) == (413, "the request has more JSON ")


def test_decoding_has_the_same_time_out_and_json_does_not_wait_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with site(limits=Limits(timeout=0.3)) as found:
        held = [send(found, name) for name in (b"a", b"b")]
        until(lambda: sorted(slow.begun) == ["a", "b"])
        body, _ = infer_body(some_images(1), binary=False, parameters={"x": "x" * 40_000})
        assert found.ask("POST", INFER, body).status == 200
        late = found.ask("POST", "/classify", b"c")
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert slow.begun[2:] == []
        slow.go.set()
        assert found.ask("POST", "/classify", b"d").status == 200
        assert slow.begun[2:] == ["d"]
        for connection in held:
            assert b" 503 " in connection.recv(100)
            connection.close()


def test_pictures_of_clients_that_hung_up_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with site() as found:
        held = [send(found, name) for name in (b"a", b"b")]
        until(lambda: sorted(slow.begun) == ["a", "b"])
        gone = [send(found, b"gone") for _ in range(3)]
        until(lambda: found.endpoints.intake.inside == 5)
        for connection in gone:
            connection.close()
        until(lambda: found.endpoints.intake.inside == 2)
        slow.go.set()
        assert found.ask("POST", "/classify", b"d").status == 200
        assert slow.begun[2:] == ["d"]
        for connection in held:
            assert json.loads(connection.recv(10_000).partition(b"\r\n\r\n")[2] or connection.recv(10_000))["top"]
            connection.close()


def test_pictures_take_their_pixels_of_the_room(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    room, taken = server.endpoints._room, list[int]()
    take = room.taken

    def noted(pixels: int) -> AbstractContextManager[None]:
        taken.append(pixels)
        return take(pixels)

    monkeypatch.setattr(room, "taken", noted)
    assert server.ask("POST", "/classify", encoded("PNG", (60, 80))).status == 200
    assert server.ask("POST", "/classify", b"no picture").status == 415
    assert taken == [60 * 80, 0]


@pytest.mark.parametrize("path", ["/classify", INFER])
def test_small_bodies_in_an_encoding_take_little_memory_however_many_they_are(path: str) -> None:
    body, headers = (encoded("PNG", SIZE), {}) if path == "/classify" else infer_body(some_images(1), binary=False)
    headers = {**headers, "Content-Encoding": "gzip"}
    with site(FakeSession(seconds=0.2)) as found, concurrent.futures.ThreadPoolExecutor(64) as pool:
        done = list(pool.map(lambda _: found.ask("POST", path, gzip.compress(body), headers), range(64)))
        assert [one.status for one in done] == [200] * 64
        refused = found.ask("POST", path, b"x", headers)
        assert refused.status == 400
        until(lambda: found.endpoints.intake._held == 0)


def test_what_was_unpacked_is_held_until_it_is_answered() -> None:
    go = threading.Event()
    body, headers = infer_body(some_images(1), binary=False, parameters={"x": "x" * 30_000})
    packed = gzip.compress(body)
    with (
        site(FakeSession(before=lambda _images: go.wait(10))) as found,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(found.ask, "POST", INFER, packed, {**headers, "Content-Encoding": "gzip"})
        until(lambda: found.endpoints.batcher.running == 1)
        assert found.endpoints.intake._held == len(packed) + len(body)
        go.set()
        assert asked.result().status == 200
        until(lambda: found.endpoints.intake._held == 0)


def test_an_answer_is_read_by_the_interface_of_the_session_that_gave_it() -> None:
    weights, names = (0.1, 0.1, 0.8), ("x", "y", "z")

    def reload(_images: Images) -> None:
        if found.session.batches == [1]:
            other = FakeSession(seed=1, members=names)
            found.endpoints.served._next = Loaded(other, replace(INTERFACE, members=names, weights=weights))  # type: ignore[arg-type]
            assert found.endpoints.served.swap()

    with site(FakeSession(before=reload)) as found:
        picture = encoded("PNG", SIZE)
        old, new = (found.ask("POST", "/classify", picture).json for _ in range(2))
    assert tuple(one["name"] for one in old["members"]) == MEMBERS
    assert tuple(one["name"] for one in new["members"]) == names
