"""How long to wait for a source, and how often to ask it."""

import threading
from dataclasses import dataclass

__all__ = ["Patience", "TransientError", "Tries"]


@dataclass(frozen=True)
class Patience:
    """How long to wait for a source, and how often to ask.

    Attributes:
        connect: seconds until a connection is made.
        idle: seconds without a byte.
        tries: requests in a row that may bring nothing.
        pause: seconds before the second try; doubled before each further one.
    """

    connect: float = 10.0
    idle: float = 30.0
    tries: int = 5
    pause: float = 0.5


class TransientError(Exception):
    """A request failed in a way that the next one need not; the text says how. It never leaves this package."""


class Tries:
    """Counts the failures in a row of one piece of work, and waits between them.

    Args:
        patience: how often, and with what pauses.
        arrived: bytes that are there already.
        halt: no pause is longer than until this is set.
    """

    def __init__(self, patience: Patience, arrived: int = 0, halt: threading.Event | None = None) -> None:
        self._patience = patience
        self._arrived = arrived
        self._halt = halt or threading.Event()
        self._failures = 0

    def again(self, arrived: int = 0) -> bool:
        """Return whether to try again after a failure, and wait before that; `arrived` bytes are there by now."""
        if arrived > self._arrived:
            self._failures, self._arrived = 0, arrived
        self._failures += 1
        if self._failures >= self._patience.tries:
            return False
        self._halt.wait(self._patience.pause * 2 ** (self._failures - 1))
        return True
