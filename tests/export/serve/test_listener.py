"""Connections: what is sent to them too slowly, too long or wrongly, and how they end."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from export.serve.http1 import AHEAD
from export.serve.limits import Limits
from export.serve.listener import is_loopback, reserve, shared_socket
from tests.export.serve.conftest import FakeSession, Images, Response, Site, infer_body, site, some_images
from zoo.errors import UsageError


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients that do not read go sooner."""
    for module in ("app", "http1"):
        monkeypatch.setattr(f"export.serve.{module}.LINGER", 0.3)


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


def test_requests_far_ahead_of_their_answers_are_not_read(strict: Site) -> None:
    with connection(strict) as sock:
        request_ = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        threading.Thread(target=_send_what_goes, args=(sock, request_ * 20_000)).start()
        text = read_all(sock)
    assert text.count(b"HTTP/1.1 200 OK") == 1 + AHEAD
    assert text.lower().count(b"connection: close") == 1


def content_length(text: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", text)
    assert found is not None
    return int(found[1])


@contextmanager
def unread_answer(limits: Limits) -> Iterator[tuple[Site, socket.socket]]:
    """Yield a client that asks six times for megabytes, and reads none of them."""
    body, headers = infer_body(some_images(limits.max_batch))
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    once, last = f"{head}\r\n".encode() + body, f"{head}Connection: close\r\n\r\n".encode() + body
    with socket.socket() as sock, site(limits=limits) as found:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", found.port))
        threading.Thread(target=_send_what_goes, args=(sock, once * 5 + last)).start()
        while not found.session.batches:
            time.sleep(0.005)
        yield found, sock


def test_an_answer_that_is_not_read_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    with unread_answer(Limits(max_batch=4096, write_timeout=0.3)) as (found, sock):
        time.sleep(1)
        text = b""
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(1 << 20):  # what the kernel had of it
                text += part
        assert len(found.session.batches) < 6
    assert text.count(b"HTTP/1.1 200 OK") in range(1, 6)
    assert "Exception" not in caplog.text


def test_an_answer_that_is_read_late_comes_whole() -> None:
    with unread_answer(Limits(max_batch=4096, write_timeout=5)) as (_, sock):
        time.sleep(0.5)
        text = read_all(sock)
    parts = text.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(parts) == 6
    assert [len(part.partition(b"\r\n\r\n")[2]) for part in parts] == [content_length(part) for part in parts]


def test_at_the_end_nobody_waits_for_a_client_that_does_not_read() -> None:
    with unread_answer(Limits(max_batch=4096, write_timeout=60)) as (_, _sock):
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 8


def test_uploads_that_do_not_come_keep_nobody_out() -> None:
    with site(limits=Limits(max_batch=4, max_queue=2)) as found, contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(connection(found))
            sock.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 16777216\r\n\r\n")
        time.sleep(0.1)
        assert found.infer(some_images(1)).status == 200
        stack.close()


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


@pytest.mark.parametrize(
    ("host", "address", "inside"),
    [
        ("localhost", "127.0.0.1", True),
        ("this", "127.9.9.9", True),
        ("ip6-localhost", "::1", True),
        ("localhost.lan", "192.0.2.7", False),
        ("127.x.example", "192.0.2.7", False),
        ("all", "0.0.0.0", False),  # noqa: S104
        ("any", "::", False),
        ("link", "fe80::1%eth0", False),
    ],
)
def test_whether_a_name_is_of_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str, inside: bool
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, port, **_: [(0, 0, 0, "", ({host: address}[name], port))])
    assert is_loopback(host) is inside


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
