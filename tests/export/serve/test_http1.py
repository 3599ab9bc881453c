"""What a connection refuses: after the answers to what came before it, in the words of the server, and counted."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from export.serve.limits import Limits
from tests.export.serve.conftest import FakeSession, Response, Site, infer_body, site, some_images
from tests.export.serve.test_listener import connection, parsed, read_all

GOOD = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
GARBAGE = b"GARBAGE\r\n\r\n"
SENTENCES = {
    400: "this is not an HTTP request",
    408: "the request's headers did not arrive in time",
    431: "the request's line and headers are too long",
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients that do not read go sooner."""
    for module in ("app", "http1"):
        monkeypatch.setattr(f"export.serve.{module}.LINGER", 0.1)


def infer(*, chunked: bool = False) -> bytes:
    """Return a request to infer, whose body may be in chunks."""
    body, headers = infer_body(some_images(1))
    headers["Transfer-Encoding" if chunked else "Content-Length"] = "chunked" if chunked else str(len(body))
    head = "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + (b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)


def replies(text: bytes) -> list[Response]:
    """Return the answers on a connection."""
    return [parsed(b"HTTP/1.1 " + part) for part in text.split(b"HTTP/1.1 ")[1:]]


def counted(found: Site, status: int) -> float:
    """Return how many requests without a path ended so."""
    for family in text_string_to_metric_families(found.ask("GET", "/metrics").body.decode()):
        for sample in family.samples:
            if (sample.name, sample.labels) == (
                "ensemble_requests_total",
                {"endpoint": "other", "status": str(status)},
            ):
                return sample.value
    return 0.0


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (GARBAGE, 400),
        (b"GET /v2 HT", 408),
        (b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", 431),
        (infer(chunked=True) + b"ZZ\r\n", 400),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_refused_is_answered_last(before: int, last: bytes, status: int) -> None:
    limits = Limits(max_header=2000, read_timeout=0.4)
    with site(FakeSession(seconds=0.05), limits) as found, connection(found) as sock:
        sock.sendall(infer() * before + last)
        done = replies(read_all(sock))
    assert [one.status for one in done] == [200] * before + [status]
    assert done[-1].error == SENTENCES[status]
    assert done[-1].headers["content-type"] == "application/json"
    assert done[-1].headers["connection"] == "close"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(GARBAGE, 400), (b"", 408), (b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 3000, 431)],
)
def test_what_is_refused_is_counted_and_logged(sent: bytes, status: int) -> None:
    with site(limits=Limits(max_header=2000, read_timeout=0.3)) as found:
        with connection(found) as sock:
            sock.sendall(sent)
            assert parsed(read_all(sock)).status == status
        deadline = time.monotonic() + 5
        while not found.lines and time.monotonic() < deadline:
            time.sleep(0.01)
        assert counted(found, status) == 1
        record = json.loads(found.lines[0])
    assert (record["method"], record["path"], record["status"]) == ("", "", status)
    assert record["client"] == "127.0.0.1"


def test_a_request_that_was_refused_is_not_refused_again() -> None:
    with site() as found, connection(found) as sock:
        sock.sendall(b"POST /nix HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        start = sock.recv(65_536)
        sock.sendall(b"ZZ\r\n" + GARBAGE)
        done = replies(start + read_all(sock))
    assert [one.status for one in done] == [404]


def test_headers_that_wait_for_earlier_answers_are_not_late() -> None:
    go = threading.Event()
    with (
        site(FakeSession(before=lambda _images: go.wait(10)), Limits(read_timeout=0.3)) as found,
        connection(found) as sock,
    ):
        sock.sendall(infer())
        while not found.endpoints.batcher.running:
            time.sleep(0.005)
        sock.sendall(GOOD + GOOD[:10])  # after which nothing is read
        time.sleep(0.1)
        threading.Timer(0.6, go.set).start()
        sock.sendall(GOOD[10:].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        done = replies(read_all(sock))
    assert [one.status for one in done] == [200] * 3


@pytest.fixture
def crowded() -> Iterator[Site]:
    """A server that is full, and one connection away from not being so."""
    with site(limits=Limits(max_connections=3)) as found, contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(connection(found))
            sock.sendall(GOOD)
            assert b" 200 OK" in sock.recv(65_536)
        yield found


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_too_many_connections_are_told_to_come_again(crowded: Site, method: str) -> None:
    refused = crowded.ask(method, "/v2", b"x" * 100 if method == "POST" else b"")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.error == "there are more than 3 connections: try again in a second"
    assert refused.headers["connection"] == "close"
    deadline = time.monotonic() + 5
    while len(crowded.lines) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    record = json.loads(crowded.lines[3])
    assert (record["method"], record["path"], record["status"]) == (method, "/v2", 503)
    samples = crowded.endpoints.metrics.requests.labels("server", "503")
    assert samples._value.get() == 1


def test_a_crowd_that_is_gone_keeps_nobody_out() -> None:
    with site(limits=Limits(max_connections=2)) as found:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(connection(found)).sendall(GOOD)
            assert found.ask("GET", "/v2").status == 503
        deadline = time.monotonic() + 5
        while found.ask("GET", "/v2").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_client_that_hangs_up_with_a_pipeline_is_not_waited_for() -> None:
    go = threading.Event()
    with site(FakeSession(before=lambda _images: go.wait(10))) as found:
        with socket.create_connection(("127.0.0.1", found.port)) as sock:
            sock.sendall(infer() + GOOD + GARBAGE)
            while not found.endpoints.batcher.running:
                time.sleep(0.005)
        deadline = time.monotonic() + 5
        while found.endpoints.intake.inside and time.monotonic() < deadline:
            time.sleep(0.005)
        assert found.endpoints.intake.inside == 0
        go.set()
