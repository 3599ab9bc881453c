"""Connections: what is sent to them too slowly, too long or wrongly, and how they end."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from export.serve.limits import Limits
from export.serve.listener import reserve, shared_socket
from tests.export.serve.conftest import FakeSession, Images, Response, Site, infer_body, site, some_images
from zoo.errors import UsageError


@contextmanager
def connection(found: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", found.port), timeout=10) as sock:
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the server hangs up."""
    parts = []
    while part := sock.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def parsed(text: bytes) -> Response:
    head, _, body = text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Response(int(status.split()[1]), headers, body[: int(headers["content-length"])])


@pytest.fixture(scope="module")
def strict() -> Iterator[Site]:
    with site(limits=Limits(max_batch=4, read_timeout=0.3, max_header=2000)) as found:
        yield found


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET /" + b"y" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1_000_000,
    ],
)
def test_headers_that_are_too_long(strict: Site, request_: bytes) -> None:
    with connection(strict) as sock:
        threading.Thread(target=_send_what_goes, args=(sock, request_)).start()
        found = parsed(read_all(sock))
    assert (found.status, found.error) == (431, "the request's line and headers are too long")


def _send_what_goes(sock: socket.socket, content: bytes) -> None:
    try:
        sock.sendall(content)
    except OSError:
        assert len(content) > 100_000  # the server hung up before the end


def test_headers_of_a_usual_length_pass_again_and_again(strict: Site) -> None:
    with connection(strict) as sock:
        for _ in range(20):  # the limit is of one request, not of a connection
            sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000 + b"\r\n\r\n")
            assert b"200 OK" in sock.recv(65_536)


@pytest.mark.parametrize("start", [b"", b"GET /v2 HTTP/1.1\r\nHo"])
def test_headers_that_do_not_come(strict: Site, start: bytes) -> None:
    began = time.monotonic()
    with connection(strict) as sock:
        sock.sendall(start)
        found = parsed(read_all(sock))
    assert (found.status, found.error) == (408, "the request's headers did not arrive in time")
    assert 0.2 < time.monotonic() - began < 5


def test_headers_that_come_byte_by_byte(strict: Site) -> None:
    with connection(strict) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in sock.recv(65_536)
        began = time.monotonic()
        for byte in b"GET /v2 HTTP/1.1\r\nHost: x\r\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
        assert parsed(read_all(sock)).status == 408
        assert time.monotonic() - began < 5


def test_a_body_that_does_not_come(strict: Site) -> None:
    with connection(strict) as sock:
        sock.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        found = parsed(read_all(sock))
    assert (found.status, found.error) == (408, "the body did not arrive within 0.3 seconds")
    assert found.headers["connection"] == "close"
    assert strict.endpoints.intake.inside == 0


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
    ],
)
def test_what_is_not_http(strict: Site, request_: bytes) -> None:
    with connection(strict) as sock:
        sock.sendall(request_)
        found = parsed(read_all(sock))
    assert found.status == 400
    assert found.error == "this is not an HTTP request"
    assert strict.ask("GET", "/v2/health/live").status == 200


def test_bodies_in_chunks(strict: Site) -> None:
    body, headers = infer_body(some_images(2))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[n : n + 100]), body[n : n + 100]) for n in range(0, len(body), 100))
    head = "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with connection(strict) as sock:
        sock.sendall(head.encode() + chunks + b"0\r\n\r\n")
        assert parsed(read_all(sock)).output("probs").shape == (2, 10)


def test_chunks_without_end_are_refused(strict: Site) -> None:
    with connection(strict) as sock:
        sock.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        threading.Thread(target=_send_what_goes, args=(sock, (b"10000\r\n" + bytes(65_536) + b"\r\n") * 40)).start()
        found = parsed(read_all(sock))
    assert found.status == 413


def test_requests_in_a_pipeline_are_answered_in_order(strict: Site) -> None:
    paths = ["/v2/health/live", "/nix", "/v2/health/ready"]
    with connection(strict) as sock:
        sock.sendall(
            b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths[:-1])
            + f"GET {paths[-1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        text = read_all(sock)
    assert re.findall(r"HTTP/1\.1 (\d+)", text.decode()) == ["200", "404", "200"]


def test_a_client_may_wait_to_be_told_to_go_on(strict: Site) -> None:
    body, headers = infer_body(some_images(1))
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "Connection: close\r\n\r\n"
    with connection(strict) as sock:
        sock.sendall(head.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(body)
        assert parsed(read_all(sock)).status == 200


def test_at_the_end_what_is_under_way_is_answered() -> None:
    go = threading.Event()

    def hold(_images: Images) -> None:
        go.wait(10)

    answers: list[Response] = []
    with site(FakeSession(before=hold)) as found:
        found.endpoints.draining = True  # as `Replica.close` sets it
        clients = [
            threading.Thread(target=lambda seed=seed: answers.append(found.infer(some_images(1, seed))))
            for seed in range(5)
        ]
        for client in clients:
            client.start()
        while found.endpoints.intake.inside < 5:
            time.sleep(0.005)
        threading.Timer(0.3, go.set).start()
    for client in clients:
        client.join(10)
    assert [answer.status for answer in answers] == [200] * 5
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 5
    with pytest.raises(ConnectionRefusedError):
        found.ask("GET", "/v2")


def test_a_port_is_of_one_server() -> None:
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} cannot be used on 127.0.0.1: Address already in use"):
            reserve("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with shared_socket("127.0.0.1", port) as one, shared_socket("127.0.0.1", port) as other:
            one.listen()
            other.listen()
            with pytest.raises(UsageError, match="already in use"):
                reserve("127.0.0.1", port)


def test_the_port_of_a_server_that_has_just_ended_is_free() -> None:
    with site() as found, connection(found) as sock:
        sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in sock.recv(1000)
    reserve("127.0.0.1", found.port).close()  # although its connections linger in TIME_WAIT


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "192.0.2.123"])
def test_hosts_that_are_not_here(host: str) -> None:
    with pytest.raises(UsageError, match=r"--host|cannot be used"):
        reserve(host, 0)


def test_replicas_share_a_port() -> None:
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with shared_socket("127.0.0.1", port) as one, shared_socket("127.0.0.1", port) as other:
            for sock in (one, other):
                sock.listen(64)
                sock.setblocking(False)
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
            counts = []
            for sock in (one, other):
                accepted = 0
                while True:
                    try:
                        sock.accept()[0].close()
                    except BlockingIOError:
                        break
                    accepted += 1
                counts.append(accepted)
            for client in clients:
                client.close()
    assert sum(counts) == 60
    assert min(counts) > 5
