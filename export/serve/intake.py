"""Bodies of requests, read within limits of size and time, and of what all of them together may take."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from export.serve.problem import Problem

__all__ = ["Gone", "Intake", "Receive"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
"""ASGI's."""


class Gone(Exception):  # noqa: N818  # nothing went wrong here
    """The client hung up before its request was whole."""


class Intake:
    """What is being read, and how much of it there may be.

    Args:
        requests: that may be in the server at once, from their headers to their answer.
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
        """Count a request; `Problem` 429 if there are too many already."""
        if self.inside >= self._requests:
            raise Problem(429, f"{self.inside} requests are waiting already: try again in a second", retry_after=1)
        self.inside += 1
        held = Held(self)
        try:
            yield held
        finally:
            self.inside -= 1
            self._held -= held.size

    def take(self, size: int) -> None:
        """Reserve memory; `Problem` 429 if there is none left."""
        if self._held + size > self._memory:
            raise Problem(
                429, "the requests being read take all memory that they may: try again in a second", retry_after=1
            )
        self._held += size


class Held:
    """What one request holds of an `Intake`."""

    def __init__(self, intake: Intake) -> None:
        self._intake, self.size = intake, 0

    def take(self, size: int) -> None:
        """Hold so many bytes more; errors as in `Intake.take`."""
        self._intake.take(size)
        self.size += size

    async def read(self, receive: Receive, headers: dict[bytes, bytes], *, most: int, seconds: float) -> bytes:
        """Return the body of a request.

        Args:
            receive: ASGI's.
            headers: of the request.
            most: bytes that it may have.
            seconds: within which it must be here.

        Raises:
            Problem: 413 if it is larger, 408 if it takes longer, 429 if there is no memory left.
            Gone: the client hung up.
        """
        too_large = Problem(413, f"the body is larger than {most:,} bytes")
        said = headers.get(b"content-length", b"")
        if said.isdigit():
            if len(said) > 18 or int(said) > most:  # noqa: PLR2004  # 18 digits: an int, quickly
                raise too_large
            self.take(int(said))
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large
                    if size > self.size:
                        self.take(size - self.size)
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            raise Problem(408, f"the body did not arrive within {seconds:g} seconds") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)
