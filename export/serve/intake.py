"""Bodies of requests, read within limits of size, time and slowness, and of what all of them together may take."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from export.serve.problem import Problem

__all__ = ["GRACE", "RATE", "Gone", "Held", "Intake", "Receive"]

GRACE = 5.0
"""Seconds that a body may take however small it is."""

RATE = 1024
"""Bytes a second that must arrive after them, on average since the beginning."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
"""ASGI's."""


class Gone(Exception):  # noqa: N818  # nothing went wrong here
    """The client hung up before its request was whole."""


class Intake:
    """What is being read, and how much of it there may be.

    Args:
        requests: that may be in the server at once, from the end of their body to their answer.
        memory: bytes that their bodies may have together.

    Attributes:
        inside: requests in the server now.
    """

    def __init__(self, requests: int, memory: int) -> None:
        self._requests, self._memory = requests, memory
        self.inside = 0
        self._held = 0

    @contextmanager
    def admitted(self) -> Iterator["Held"]:
        """Yield what a request holds until the block ends; `Problem` 429 if there are too many requests already."""
        self._check()
        held = Held(self)
        try:
            yield held
        finally:
            self.inside -= held.inside
            self._held -= held.size

    def enter(self) -> None:
        """Count a request whose body is here; `Problem` 429 if there are too many already."""
        self._check()
        self.inside += 1

    def take(self, size: int) -> None:
        """Reserve memory; `Problem` 429 if there is none left."""
        if self._held + size > self._memory:
            raise Problem(
                429, "the requests being read take all memory that they may: try again in a second", retry_after=1
            )
        self._held += size

    def give(self, size: int) -> None:
        """Give memory back."""
        self._held -= size

    def _check(self) -> None:
        if self.inside >= self._requests:
            raise Problem(429, f"{self.inside} requests are waiting already: try again in a second", retry_after=1)


class Held:
    """What one request holds of an `Intake`."""

    def __init__(self, intake: Intake) -> None:
        self._intake, self.size, self.inside = intake, 0, False

    def take(self, size: int) -> None:
        """Hold so many bytes more; errors as in `Intake.take`."""
        self._intake.take(size)
        self.size += size

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        self._intake.give(size)
        self.size -= size

    async def read(self, receive: Receive, headers: dict[bytes, bytes], *, most: int, seconds: float) -> bytes:
        """Return the body of a request, which counts among those inside from then on.

        Memory is taken for what has arrived, not for what was announced: who sends nothing keeps nobody out.

        Args:
            receive: ASGI's.
            headers: of the request.
            most: bytes that it may have.
            seconds: within which it must be here.

        Raises:
            Problem: 413 if it is larger, 408 if it takes longer or comes slower than `RATE`, 429 if there is no memory
                left or there are too many requests inside.
            Gone: the client hung up.
        """
        too_large = Problem(413, f"the body is larger than {most:,} bytes")
        said = headers.get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > most):  # noqa: PLR2004  # 18 digits: an int, quickly
            raise too_large
        body = bytearray()  # of any number of parts, each as small as the client likes
        began = asyncio.get_running_loop().time()
        end = began + seconds
        due = min(end, began + GRACE)
        try:
            async with asyncio.timeout_at(due) as clock:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    if len(body) + len(part) > most:
                        raise too_large
                    self.take(len(part))
                    body += part
                    if not message.get("more_body", False):
                        break
                    due = min(end, began + GRACE + len(body) / RATE)
                    clock.reschedule(due)
        except TimeoutError as error:
            why = f"did not arrive within {seconds:g} seconds"
            if due < end:  # rather than the time of now: clocks may ring a little early
                why = f"comes slower than {RATE:,} bytes a second"
            raise Problem(408, f"the body {why}") from error
        self._intake.enter()
        self.inside = True
        return bytes(body)
