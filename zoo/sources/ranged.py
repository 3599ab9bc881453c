"""Files fetched in byte ranges and hashed while they arrive: one implementation for the web and for buckets.

A `Store` knows a protocol: it opens a range of a file. What is done with ranges is the same for all of them: go on
after the bytes that are there, keep a few ranges in flight so that neither latency nor hashing is waited for, try again
after a cut from the very byte where it happened, and never take more than was asked for.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from zoo.errors import CorruptError, NotFoundError, SourceError
from zoo.sources.part import Part
from zoo.sources.patience import Patience, TransientError, Tries
from zoo.sources.ranges import ABSENT, Ahead, Span, Store, check_size
from zoo.sources.transport import ConflictError

__all__ = ["RangedTransport", "open_ranged"]

_T = TypeVar("_T")


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
        self._read_as: dict[str, str] = {}  # path -> the version that was read last, where the store tells

    def read(self, path: str, limit: int) -> bytes | None:
        """Return the bytes of a small file, or None; see `Transport`."""
        try:
            return self._patiently(lambda: self._read(path, limit), path)
        except NotFoundError:
            self._note(path, ABSENT)
            return None

    def _read(self, path: str, limit: int) -> bytes:
        """Return the bytes of a small file, in one try."""
        content = bytearray()
        with self._store.open(path, 0, None) as stream:
            total = stream.total or 0
            for chunk in stream.chunks if total <= limit else ():
                content += chunk
                if len(content) > limit:
                    break
        if max(total, len(content)) > limit:
            raise CorruptError(f"{self.label}: {path} is longer than the {limit} bytes that it may have")
        self._note(path, stream.version)
        return bytes(content)

    def _note(self, path: str, version: str | None) -> None:
        """Remember which version of a file was read last."""
        self._read_as.pop(path, None)
        if version is not None:
            self._read_as[path] = version

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """Bring a large file to `part`, going on after the bytes that are there already; see `Transport`."""
        growing = Part(part, size, progress)
        if not growing.whole:
            with closing(self._chunks(path, growing.count, size)) as chunks:
                growing.append(chunks)
        return growing.sha256

    def _chunks(self, path: str, start: int, size: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a file from `start` to its end, in order, while a few ranges ahead are on their way."""
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
        """Write files in this order; see `Transport`.

        Who has read another version of one finds out before anything is written, or when that one's turn comes.
        """
        del message  # these sources keep no history
        for path in files.keys() & self._read_as.keys():
            if self._patiently(partial(self._version, path), path) != self._read_as[path]:
                raise ConflictError(f"{self.label}: {path} has changed since it was read, nothing was written")
        for path, content in files.items():
            # A write whose answer was lost conflicts with itself when it is repeated: whoever reads again finds it.
            self._patiently(partial(self._store.write, path, content, self._read_as.get(path)), path)
            self._read_as.pop(path, None)

    def _version(self, path: str) -> str | None:
        """Return the version that a file has now."""
        try:
            with self._store.open(path, 0, None) as stream:
                return stream.version
        except NotFoundError:
            return ABSENT

    def _patiently(self, work: Callable[[], _T], path: str) -> _T:
        """Return what `work` returns, after some tries."""
        tries = Tries(self._patience)
        while True:
            try:
                return work()
            except TransientError as error:
                if not tries.again():
                    raise SourceError(f"{self.label}: {path}: {error}; try again later") from error


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
