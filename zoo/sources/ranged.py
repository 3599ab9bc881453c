"""Files fetched in byte ranges and hashed while they arrive: one implementation for the web and for buckets.

A `Store` knows a protocol: it opens a range of a file. What is done with ranges is the same for all of them: go on
after the bytes that are there, keep a few ranges in flight so that neither latency nor hashing is waited for, try again
after a cut from the very byte where it happened, and never take more than was asked for.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from io import SEEK_END, FileIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

from zoo.errors import CorruptError, NotFoundError, SourceError
from zoo.files import storage_errors
from zoo.sources.ranges import Ahead, Patience, Span, Store, TransientError, check_size

__all__ = ["RangedTransport", "open_ranged"]

_T = TypeVar("_T")

_BLOCK = 1 << 20
"""Bytes read at once of a file that has to be hashed before its rest is fetched."""


class RangedTransport:
    """A source whose files can be read from any byte on; see `Transport`.

    Args:
        store: the protocol.
        patience: how long and how often to try.
        span: bytes of a range.
        ahead: ranges in flight; no more than `span * ahead` bytes are held in memory.
    """

    def __init__(self, store: Store, patience: Patience | None = None, *, span: int = 8 << 20, ahead: int = 4) -> None:
        self.label = store.label
        self._store = store
        self._patience = patience or Patience()
        self._span = span
        self._ahead = ahead

    def read(self, path: str, limit: int) -> bytes | None:
        """Return the bytes of a small file, or None; see `Transport`."""
        try:
            return self._patiently(lambda: self._read(path, limit), path)
        except NotFoundError:
            return None

    def _read(self, path: str, limit: int) -> bytes:
        """Return the bytes of a small file, in one try."""
        size = self._store.size(path)
        content = bytearray()
        if size is None or 0 < size <= limit:
            with self._store.open(path, 0, size) as stream:
                size = stream.total
                chunks = iter(()) if size is not None and size > limit else stream.chunks
                for chunk in chunks:
                    content += chunk
                    if len(content) > limit:
                        break
        if max(size or 0, len(content)) > limit:
            raise CorruptError(f"{self.label}: {path} is longer than the {limit} bytes that it may have")
        return bytes(content)

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """Bring a large file to `part`, going on after the bytes that are there already; see `Transport`."""
        digest = hashlib.sha256()
        have = 0
        with storage_errors(part):
            file = part.open("a+b", buffering=0)
        with file:
            with storage_errors(part):
                if file.seek(0, SEEK_END) > size:  # the beginning of something else
                    file.truncate(0)
                file.seek(0)
            while block := _read(file, part):
                digest.update(block)
                have += len(block)
                progress(len(block))
            with closing(self._chunks(path, have, size)) as chunks:
                for chunk in chunks:
                    _append(file, chunk, part)
                    digest.update(chunk)
                    progress(len(chunk))
        return digest.hexdigest()

    def _chunks(self, path: str, start: int, size: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a file from `start` to its end, in order, while a few ranges ahead are on their way."""
        if start == size:
            return
        known = self._patiently(lambda: self._store.size(path), path)
        if known is not None:
            check_size(self.label, path, known, size)
        halt = threading.Event()
        starts = iter(range(start, size, self._span))
        ahead: deque[Ahead] = deque()

        def span(at: int, *, extends: bool = False) -> Span:
            return Span(
                self._store, self._patience, path, (at, min(at + self._span, size), size), halt, extends=extends
            )

        def look_ahead(flying: int) -> None:
            ahead.extend(Ahead(span(at), halt) for at in islice(starts, max(self._ahead - flying - len(ahead), 0)))

        # A server's first answer shows whether it knows ranges; if it does not, its one stream brings everything.
        first = span(next(starts), extends=True)
        try:
            if known is not None:
                look_ahead(1)
            for chunk in first:
                if not first.whole:
                    look_ahead(1)
                yield chunk
            while not first.whole:
                look_ahead(0)
                if not ahead:
                    break
                yield from ahead.popleft()
        finally:
            halt.set()

    def publish(self, files: Mapping[str, bytes | Path], message: str) -> None:
        """Write files in this order; see `Transport`."""
        del message  # these sources keep no history
        for path, content in files.items():
            self._patiently(partial(self._store.write, path, content), path)

    def _patiently(self, work: Callable[[], _T], path: str) -> _T:
        """Return what `work` returns, after some tries."""
        failures = 0
        while True:
            try:
                return work()
            except TransientError as error:
                failures += 1
                if failures == self._patience.tries:
                    raise SourceError(f"{self.label}: {path}: {error}; try again later") from error
            self._patience.wait(failures)


def _read(file: FileIO, path: Path) -> bytes:
    """Return the next block of a local file."""
    with storage_errors(path):
        return file.read(_BLOCK)


def _append(file: FileIO, chunk: bytes, path: Path) -> None:
    """Write all of a chunk to a local file."""
    rest = memoryview(chunk)
    with storage_errors(path):
        while rest:
            rest = rest[file.write(rest) :]


def open_ranged(url: str, patience: Patience | None = None) -> RangedTransport:
    """Return the source that a URL names: `https://`, `http://`, `s3://`, or what else fsspec has a package for.

    Nothing is asked of the source yet.

    Args:
        url: its root. What it says of a user, a password or a query is used, and never printed.
        patience: how long and how often to try.

    Raises:
        UsageError: not a URL, a protocol that is not known, or one whose package is missing.
        SourceError: the credentials that were found for it are no good.
    """
    patience = patience or Patience()
    store: Store
    if url.partition("://")[0].lower() in {"http", "https"}:
        from zoo.sources.web import Web  # noqa: PLC0415  # its library is slow to import

        store = Web(url, patience)
    else:
        from zoo.sources.bucket import Bucket  # noqa: PLC0415  # its library is slow to import

        store = Bucket(url, patience)
    return RangedTransport(store, patience)
