"""A long-running command: signals as requests, and streams that nobody else writes to."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Self

__all__ = ["Signals", "Stopped", "Streams", "own_streams", "until_stopped"]

_STOP = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):  # on request, and no error that a library may handle
    """Somebody wanted an end before there was anything to end gracefully."""


class Signals:
    """SIGINT and SIGTERM as a request to stop, SIGHUP as one to reload; a context in the main thread.

    Until `gently`, the first request to stop raises `Stopped` wherever the program is, and so does a second one later.
    """

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._gentle = False
        self._stop = self._reload = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in (*_STOP, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def gently(self) -> None:
        """From now on, `wait` tells of requests to stop; `Stopped` if there was one that a library has swallowed."""
        self.take()  # what a library has put in place of these meanwhile
        if self._stop:
            raise Stopped
        self._gentle = True

    def take(self) -> None:
        """Hear signals again after somebody else's handlers were installed."""
        for number in (*_STOP, signal.SIGHUP):
            signal.signal(number, self._hear)

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked for an end."""
        return self._stop

    def wait(self, seconds: float) -> str:
        """Wait for a request, at most so many seconds, and return it: `stop`, `reload`, or nothing."""
        self._woken.wait(seconds)
        self._woken.clear()
        if self._stop:
            return "stop"
        if self._reload:
            self._reload = False
            return "reload"
        return ""

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            again, self._stop = self._stop, True
            if again or not self._gentle:
                raise Stopped
        self._woken.set()


@contextmanager
def until_stopped() -> Iterator[None]:
    """Let a block end in peace when somebody wants it to, also while Ray starts, which handles SIGTERM itself then."""
    try:
        yield
    except Stopped:
        return
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise


class Streams:
    """The command's own output.

    Args:
        out: for results.
        err: for everything else.
    """

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        self._out, self._err = out, err
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Print a result."""
        print(line, file=self._out, flush=True)

    def note(self, *lines: str) -> None:
        """Print lines on stderr; several threads may, each line stays whole."""
        with self._lock:
            print(*lines, sep="\n", file=self._err, flush=True)


@contextmanager
def own_streams() -> Iterator[Streams]:
    """Yield stdout and stderr, and let whatever else this process and its children print go nowhere.

    Ray prints what its processes report on the standard output of the program that started it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err:
            for number in (1, 2):
                os.dup2(nowhere, number)
            yield Streams(out, err)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, fd in zip((1, 2), kept, strict=True):
            os.dup2(fd, number)
        for fd in (*kept, nowhere):
            os.close(fd)
