"""Servers on the loopback device: static HTTP with the faults of real ones, TLS, S3, and a wire that breaks."""

import socket
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

from zoo.sources.patience import Patience

QUICK = Patience(connect=5.0, idle=5.0, tries=3, pause=0.01)
"""For tests in which nobody is silent."""

HASTY = Patience(connect=5.0, idle=0.5, tries=3, pause=0.01)
"""For those in which somebody is."""


@dataclass
class Behaviour:
    """What a static server has, and how it misbehaves.

    Attributes:
        files: path with a leading slash -> content.
        ranges: it answers a range with that range, and not with all of the file.
        framing: how the end of a body is marked: by `length`, `chunked`, or by `close` of the connection.
        faults: bytes of a body after which the connection is cut; one is used up by each request that it applies to.
        stall: cut by saying nothing more rather than by closing.
        statuses: status codes of the next requests, in place of an answer.
        redirects: path -> where it is now.
        headers: added to every good answer.
        claims: path -> length of the file as the headers have it; the connection is closed after what there is.
        password: `user:password` in base64 without which requests are refused.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    framing: str = "length"
    faults: list[int] = field(default_factory=list)
    stall: bool = False
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    password: str | None = None


class StaticServer(ThreadingHTTPServer):
    """A static file server.

    Attributes:
        behaviour: see there.
        sent: path -> bytes of bodies that went out.
        asked: a (path, headers) pair for every request.
        url: its root.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviour: Behaviour, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.sent: Counter[str] = Counter()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.halt = threading.Event()
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.server_port}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StaticServer

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        behaviour, server = self.server.behaviour, self.server
        path = self.path.partition("?")[0]
        with server.lock:
            server.asked.append((self.path, dict(self.headers)))
            status = behaviour.statuses.pop(0) if behaviour.statuses else 0
        if behaviour.password and self.headers["Authorization"] != f"Basic {behaviour.password}":
            status = 401
        if not status and path in behaviour.redirects:
            self.send_response(302)
            self.send_header("Location", behaviour.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif status or path not in behaviour.files:
            self.send_response(status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(path, behaviour.files[path])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        """Take a file and forget it."""
        with self.server.lock:
            self.server.asked.append((self.path, dict(self.headers)))
            status = self.server.behaviour.statuses.pop(0) if self.server.behaviour.statuses else 200
        self.close_connection = True
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: str, content: bytes) -> None:
        behaviour = self.server.behaviour
        total = behaviour.claims.get(path, len(content))
        start, stop = 0, total
        if behaviour.ranges and (wanted := self.headers["Range"]):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, total)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        else:
            self.send_response(200)
        for name, value in behaviour.headers.items():
            self.send_header(name, value)
        if behaviour.framing == "length":
            self.send_header("Content-Length", str(stop - start))
        elif behaviour.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self._body(path, content[start:stop])

    def _body(self, path: str, body: bytes) -> None:
        behaviour, server = self.server.behaviour, self.server
        with server.lock:
            cut = behaviour.faults.pop(0) if behaviour.faults else len(body) + 1
        sent = body[:cut]
        with server.lock:
            server.sent[path] += len(sent)
        if behaviour.framing == "chunked":
            for at in range(0, len(sent), 5000):
                piece = sent[at : at + 5000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n" if cut > len(body) else b"")
        else:
            self.wfile.write(sent)
        if cut <= len(body) or path in behaviour.claims:
            self.close_connection = True
            if behaviour.stall:
                server.halt.wait(10)


@contextmanager
def serve(behaviour: Behaviour, context: ssl.SSLContext | None = None) -> Iterator[StaticServer]:
    """Run a static server."""
    server = StaticServer(behaviour, context)
    with running(server):
        yield server
        server.halt.set()


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server answer, in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a certificate for 127.0.0.1, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "loopback.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    """Return what a TLS server needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


class Wire(socketserver.ThreadingTCPServer):
    """Hands connections on to another port, and cuts them as it is told.

    Attributes:
        faults: bytes of an answer after which its connection is cut; one is used up by each longer answer.
        stall: cut by saying nothing more rather than by closing.
        brought: bytes of answers that went through.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.port = port
        self.faults: list[int] = []
        self.stall = False
        self.halt = threading.Event()
        self.brought = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Relay(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as far, suppress(OSError):
            threading.Thread(target=self._upstream, args=(far,), daemon=True).start()
            passed = 0
            while data := far.recv(1 << 16):
                faults = self.server.faults
                if faults and passed + len(data) > faults[0]:
                    self.request.sendall(data[: faults.pop(0) - passed])
                    if self.server.stall:
                        self.server.halt.wait(10)
                    return
                passed += len(data)
                self.server.brought += len(data)
                self.request.sendall(data)

    def _upstream(self, far: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(1 << 16):
                far.sendall(data)
