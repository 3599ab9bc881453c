"""An application on a port, in a thread of its own."""

import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from export.serve.http1 import protocol
from export.serve.limits import Limits
from zoo.errors import UsageError

__all__ = ["Listener", "is_loopback", "reserve", "shared_socket"]

_IDLE = 75
"""Seconds that a connection may say nothing between two requests: more than proxies keep theirs."""

_START = 30.0

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Say whether an address can be reached from this machine only; `UsageError` if there is none of that name."""
    _, (address, *_) = _resolve(host, 0)
    return ipaddress.ip_address(address).is_loopback


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port for the replicas of this machine, and never listens.

    Args:
        host: name or address of an interface.
        port: 0 for one that is free.

    Raises:
        UsageError: there is no such address here, or something has the port already.
    """
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as alone:  # sharing is not for strangers, nor for a second server
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended
        _bind(alone, address)
    return shared_socket(host, port, listens=False)


def shared_socket(host: str, port: int, *, listens: bool = True) -> socket.socket:
    """Return a socket bound to a port beside those of other replicas: each connection goes to one that listens.

    Errors are those of `reserve`.
    """
    family, address = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # What listens can be followed at once by another server; what only holds a port keeps others out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(listens))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host!r} is no address of this machine: {error.strerror or error}") from error
    return family, address


def _bind(sock: socket.socket, address: tuple[Any, ...]) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        raise UsageError(f"--port {address[1]} cannot be used on {address[0]}: {error.strerror or error}") from error


class Listener:
    """A running HTTP server.

    Args:
        app: an ASGI application.
        sock: bound; it is closed at the end.
        limits: of connections and headers.
    """

    def __init__(self, app: Application, sock: socket.socket, limits: Limits) -> None:
        config = uvicorn.Config(
            app,
            http=protocol(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE,
            backlog=max(limits.max_connections, 128),
        )
        self._server = uvicorn.Server(config)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(sock,), name="http", daemon=True)

    def start(self) -> None:
        """Listen; returns once connections are accepted."""
        self._thread.start()
        pause = threading.Event()
        while not self._server.started:
            if self._stopped.is_set():
                raise RuntimeError("the HTTP server did not start")
            pause.wait(0.01)

    @property
    def alive(self) -> bool:
        """Whether it is still serving."""
        return self._thread.is_alive()

    def stop(self, seconds: float) -> bool:
        """Stop listening, answer what is under way, and close; say whether all was answered in time."""
        self._server.should_exit = True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._server.run([sock])
        finally:
            self._stopped.set()
