"""Byte ranges of a remote file: what a protocol must offer, and iterators that survive cuts and run ahead."""

import queue
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zoo.errors import CorruptError, SourceError
from zoo.sources.patience import Patience, TransientError, Tries

__all__ = ["ABSENT", "Ahead", "Span", "Store", "Stream", "check_size", "line", "shown"]


ABSENT = ""
"""Stands for the version of a file that is not there."""


@dataclass(frozen=True)
class Stream:
    """What a store answers.

    Attributes:
        chunks: the bytes, in pieces of any size.
        whole: they begin with the file's first byte and not where the range does: the server knows no ranges.
        total: bytes of the whole file, if the answer tells.
        marked: the end of the answer can be told from a cut connection.
        version: what is another when the content is, such as an ETag, where the store can write over this one only.
    """

    chunks: Iterator[bytes]
    whole: bool = False
    total: int | None = None
    marked: bool = True
    version: str | None = None


class Store(Protocol):
    """A protocol that opens ranges of files; paths are as in `Transport`.

    Methods may be called from several threads at once. They raise `NotFoundError` for a file that is not there,
    `TransientError` where another try may help, and `SourceError` where it would not.

    Attributes:
        label: what to call the source in messages; without any password.
    """

    label: str

    def size(self, path: str) -> int | None:
        """Return the length of a file, or None if that takes a request for its content."""

    def open(self, path: str, start: int, stop: int | None) -> AbstractContextManager[Stream]:
        """Open the bytes from `start` up to, not including, `stop`; with one request for all bytes if it is None."""

    def write(self, path: str, content: bytes | Path, over: str | None = None) -> None:
        """Write a file; `UsageError` if the protocol can only be read.

        Args:
            path: of the file.
            content: its bytes, or the local file that has them.
            over: the version to be replaced, or `ABSENT`; `ConflictError` if there is another. None for any.
        """


class Span:
    """A range of a file as an iterator of chunks, which asks for what is missing when it is cut.

    Args:
        place: first byte, the byte after the last one, and the length of the file.
        extends: take the rest of the file as well if the server sends all of it anyway.

    Attributes:
        whole: the server knows no ranges.
    """

    def __init__(
        self,
        store: Store,
        patience: Patience,
        path: str,
        place: tuple[int, int, int],
        halt: threading.Event,
        *,
        extends: bool,
    ) -> None:
        self.whole = False
        self._store = store
        self._patience = patience
        self._path = path
        self._start, self._stop, self._size = place
        self._halt = halt
        self._extends = extends

    def __iter__(self) -> Iterator[bytes]:
        tries = Tries(self._patience, self._start, self._halt)
        while self._start < self._stop and not self._halt.is_set():
            try:
                with self._store.open(self._path, self._start, self._stop) as stream:
                    for chunk in self._missing(stream):
                        self._start += len(chunk)
                        yield chunk
            except TransientError as error:
                if not tries.again(self._start):
                    raise SourceError(
                        f"{self._store.label}: {self._path} broke off after {self._start} of {self._size} bytes "
                        f"({error}); the same command goes on from there"
                    ) from error

    def _missing(self, stream: Stream) -> Iterator[bytes]:
        """Yield what is asked for, and nothing else, of what a store answers."""
        if stream.total is not None:
            check_size(self._store.label, self._path, stream.total, self._size)
        before = self._start
        at = 0 if stream.whole else before
        if stream.whole and self._extends:
            self.whole = True
            self._stop = self._size
        for chunk in stream.chunks:
            wanted = chunk[max(self._start - at, 0) : max(self._stop - at, 0)]
            at += len(chunk)
            if wanted:
                yield wanted
            # A body read to its end leaves a connection that can be used again; the rest of a whole file is too long.
            if at > self._stop or (at == self._stop and stream.whole and not self._extends):
                break
        if stream.whole and at > self._size:
            raise CorruptError(
                f"{self._store.label}: {self._path} has more than the {self._size} bytes that it should have"
            )
        if stream.whole and stream.marked and at < self._stop:
            check_size(self._store.label, self._path, at, self._size)
        if self._start == before:
            raise TransientError("the connection was closed")


class Ahead:
    """A range that a thread fetches, as an iterator of chunks.

    The thread is a daemon: nobody waits for it after an error, and it ends with the next chunk or timeout.
    """

    def __init__(self, span: Span, halt: threading.Event) -> None:
        self._span = span
        self._halt = halt
        self._queue: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="zoo-fetch", daemon=True).start()

    def _run(self) -> None:
        try:
            for chunk in self._span:
                self._queue.put(chunk)
                if self._halt.is_set():
                    break
            self._queue.put(None)
        except Exception as error:  # noqa: BLE001  # it is raised where the chunks are waited for
            self._queue.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def check_size(label: str, path: str, found: int, size: int) -> None:
    """Raise `CorruptError` if a file of a source has not the bytes that it should have."""
    if found != size:
        raise CorruptError(f"{label}: {path} has {found} bytes, and should have {size}")


def shown(url: str) -> str:
    """Return a URL without what may be secret: the user and password, and the query."""
    bare = re.sub(r"^([^/?#]*://)[^/?#]*@", r"\1", url)
    path, query, _ = bare.partition("?")
    return f"{path}?..." if query else bare


def line(error: BaseException) -> str:
    """Return what a library's error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
