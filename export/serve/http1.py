"""Connections that wait forever neither for headers nor for a client to read, and take no number of requests ahead.

uvicorn leaves this to a proxy in front; this server may stand alone. What is refused here is answered by the
application, too: `state` of its scope has the `Problem` as `refusal`, and `last` if the connection ends after it.
None of uvicorn's names with an underscore is used, so that its releases from 0.30 on will do.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from export.serve.limits import Limits
from export.serve.problem import Problem

__all__ = ["AHEAD", "LINGER", "protocol"]

AHEAD = 16
"""Requests that a client may send before the answer to an earlier one; what it sends after them is not read."""

LINGER = 2.0
"""Seconds that a client which is still sending gets to read why it was refused, before the connection ends."""


_BAD = 400, "this is not an HTTP request"
_SLOW = 408, "the request's headers did not arrive in time"
_LONG = 431, "the request's line and headers are too long"

_NO_REQUEST = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
"""What is read instead of what is none; its body never ends, as nobody knows what the client still sends."""


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits of its own."""

    class Limited(_Limited):
        most, seconds, patience = limits.max_header, limits.read_timeout, limits.write_timeout
        crowd = limits.max_connections

    return Limited


class _Limited(HttpToolsProtocol):
    """HTTP/1.1 with limits to headers, to requests sent ahead, and to the time that a client takes to read.

    Attributes:
        most: bytes of a request's line and headers.
        seconds: within which they must be here.
        patience: seconds within which an answer must be taken.
        crowd: connections that are served at once; requests of more are refused.
    """

    most: int
    seconds: float
    patience: float
    crowd: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # uvicorn's
        super().__init__(*args, **kwargs)
        self.access_log = False  # the application writes one
        self._clock: asyncio.TimerHandle | None = None
        self._came = 0  # bytes since the clock started
        self._size = 0  # bytes of the line and headers that were understood
        self._fault = _BAD  # what is wrong where the parser stops
        self._refused = False  # whether nothing more is read
        self._unread: asyncio.TimerHandle | None = None  # runs while an answer waits for the client to read
        self._running: RequestResponseCycle | None = None
        self._draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # TCP's
        self.transport.set_write_buffer_limits(0)  # hear of every byte that waits
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_patience()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells only the last in the pipeline
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._came += len(data)
        super().data_received(data)
        if self._clock is not None and self._came > self.most:
            self._refuse(*_LONG)

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
        if not self._refused:
            if self._size > self.most:
                self._fault = _LONG
                raise ValueError  # the parser must not go on; `send_400_response` hears of it
            if len(self.pipeline) >= AHEAD:
                # uvicorn reads on after every answer. The pipeline is answered; the rest is the client's to send again.
                self.cycle.scope["state"]["last"] = True  # has arrived whole, and waits
                self._refused = True
                raise ValueError  # likewise
            if len(self.connections) > self.crowd:
                self.scope["state"]["refusal"] = Problem(
                    503, f"there are more than {self.crowd} connections: try again in a second", retry_after=1
                )
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_patience()

    def resume_writing(self) -> None:
        self._stop_patience()
        super().resume_writing()

    def shutdown(self) -> None:
        super().shutdown()
        self._draining = True
        if self._unread is not None:
            self._start_patience()

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(*self._fault)

    def _start_clock(self) -> None:
        self._came = 0
        self._clock = self.loop.call_later(self.seconds, self._look_at_clock)

    def _look_at_clock(self) -> None:
        if self.flow.read_paused:  # until requests before this one are answered: it is not the client that is slow
            self._clock = self.loop.call_later(self.seconds, self._look_at_clock)
        else:
            self._refuse(*_SLOW)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _start_patience(self) -> None:
        self._stop_patience()
        # At the end, whoever reads gets an answer that is under way, and whoever does not keeps nobody waiting.
        seconds = min(LINGER, self.patience) if self._draining else self.patience
        self._unread = self.loop.call_later(seconds, self._give_up, self.transport.get_write_buffer_size())

    def _stop_patience(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self, waiting: int) -> None:
        """Hang up on a client that does not read; `waiting` bytes were left for it when the clock started."""
        if self._draining and self.transport.get_write_buffer_size() < waiting:
            self._start_patience()
        else:
            self.transport.abort()

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what is no request once all before it are answered, and hang up.

        The application answers, as it does to requests, in their order, and counts it.
        """
        self._stop_clock()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._running is not None and self.cycle.more_body and not self.cycle.response_complete:
            # A body is what went wrong: this is the answer to its request, unless that was refused already.
            if self.cycle.response_started:
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.pipeline:
                self.pipeline.popleft()
                self.cycle = self._running
            else:
                self.cycle = None  # type: ignore[assignment]  # as before the first
        self.parser = type(self.parser)(self)
        self.parser.feed_data(_NO_REQUEST)
        self.scope["state"]["refusal"] = Problem(status, sentence)
        self.scope["method"] = self.scope["path"] = ""
