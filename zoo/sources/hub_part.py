"""A file that arrives: what is there of it, and its sha256 so far."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.errors import CorruptError
from zoo.files import storage_errors

__all__ = ["Part", "adopt"]

_CHUNK = 1 << 20


class Part:
    """A file that has arrived in part.

    Args:
        path: of the file; what is there already is read and hashed, and is deleted if it is too long.
        size: bytes that it shall have.
        progress: called with the number of bytes that have come in, those that were there as well.

    Attributes:
        count: bytes that are there.
        digest: their sha256 so far.
    """

    def __init__(self, path: Path, size: int, progress: Callable[[int], None]) -> None:
        self.path, self.size, self.progress = path, size, progress
        self.digest, self.count = hashlib.sha256(), 0
        with storage_errors(path):
            if path.exists() and path.stat().st_size > size:
                path.unlink()  # never truncated: it may be a link to a file of the Hub's cache
            path.touch()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self._count(chunk)

    @property
    def sha256(self) -> str:
        return self.digest.hexdigest()

    def write(self, chunks: Iterator[bytes], skip: int = 0) -> None:
        """Append what arrives, without its first `skip` bytes; `CorruptError` if it is more than there should be."""
        with storage_errors(self.path):
            file = self.path.open("ab", buffering=0)
        with file:
            for received in chunks:
                chunk, skip = received[skip:], max(0, skip - len(received))
                if self.count + len(chunk) > self.size:
                    raise CorruptError(f"more than the {self.size:,} bytes of {self.path.name} came in")
                with storage_errors(self.path):
                    written = 0
                    while written < len(chunk):
                        written += file.write(chunk[written:])
                self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.count += len(chunk)
        self.progress(len(chunk))


def adopt(there: Path, size: int, part: Path, progress: Callable[[int], None], what: str) -> str:
    """Make `part` a link to a file of the Hub's cache, or a copy of it, and return its sha256."""
    with storage_errors(part):
        found = there.stat().st_size
        if found != size:
            raise CorruptError(f"{what} has {found:,} bytes, not {size:,}")
        part.unlink(missing_ok=True)
        try:
            os.link(there, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(there, part)
    return Part(part, size, progress).sha256
