"""Connections that do not wait forever for a request's headers, and do not take any number of them.

uvicorn leaves both to a proxy in front; this server may stand alone.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.serve.limits import Limits

__all__ = ["LINGER", "protocol"]

LINGER = 2.0
"""Seconds that a client which is still sending gets to read why it was refused, before the connection ends."""


def _last(status: str, sentence: str) -> bytes:
    """Return an answer after which the connection ends."""
    body = b'{"error": "%b"}' % sentence.encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    return head.encode() + b"\r\n" + body


_BAD = _last("400 Bad Request", "this is not an HTTP request")
_SLOW = _last("408 Request Timeout", "the request's headers did not arrive in time")
_LONG = _last("431 Request Header Fields Too Large", "the request's line and headers are too long")


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits of its own."""

    class Limited(_Limited):
        most, seconds = limits.max_header, limits.read_timeout

    return Limited


class _Limited(HttpToolsProtocol):
    """HTTP/1.1 with limits to headers.

    Attributes:
        most: bytes of a request's line and headers.
        seconds: within which they must be here.
    """

    most: int
    seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # uvicorn's
        super().__init__(*args, **kwargs)
        self.access_log = False  # the application writes one
        self._clock: asyncio.TimerHandle | None = None
        self._came = 0  # bytes since the clock started
        self._size = 0  # bytes of the line and headers that were understood
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # TCP's
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._came += len(data)
        super().data_received(data)
        if self._clock is not None and self._came > self.most:
            self._refuse(_LONG)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 0
        if self._clock is None:
            self._start_clock()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        self._stop_clock()
        if self._size > self.most:
            self._refuse(_LONG)
            raise ValueError  # the parser must not go on; `send_400_response` hears of it
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(_BAD)

    def _start_clock(self) -> None:
        self._came = 0
        self._clock = self.loop.call_later(self.seconds, self._refuse, _SLOW)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, answer: bytes) -> None:
        """Answer and hang up, once."""
        self._stop_clock()
        if not self._refused and not self.transport.is_closing():
            self._refused = True
            self.transport.write(answer)
            # Closed with bytes unread, a connection is reset, and the client may never see the answer.
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.close)
