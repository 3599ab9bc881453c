"""A file that arrives: what is there of it, and its sha256 so far."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from zoo.errors import CorruptError
from zoo.files import storage_errors

__all__ = ["Part"]

_CHUNK = 1 << 20


class Part:
    """A file that has arrived in part.

    A file that may be linked to one of the Hub's cache is never truncated or appended to, but replaced.

    Args:
        path: of the file; what is there already is read and hashed, and is deleted if it cannot be a beginning.
        size: bytes that it shall have.
        progress: called with the number of bytes that have come in since its last call; without those that were there.

    Attributes:
        count: bytes that are there.

    Raises:
        StorageError: the disk refuses.
    """

    def __init__(self, path: Path, size: int, progress: Callable[[int], None]) -> None:
        self.path, self.size, self.progress = path, size, progress
        with storage_errors(path):
            if path.exists():
                found = path.stat()
                if found.st_size > size or (found.st_size < size and found.st_nlink > 1):
                    path.unlink()
            path.touch()
        self._hash()

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.count == self.size

    @property
    def sha256(self) -> str:
        """The sha256 of what is there, in hex."""
        return self._digest.hexdigest()

    def append(self, chunks: Iterable[bytes], skip: int = 0) -> None:
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
                self._digest.update(chunk)
                self.count += len(chunk)
                self.progress(len(chunk))

    def adopt(self, there: Path, what: str) -> None:
        """Make it a link to a local file, or a copy of it; `CorruptError`, naming `what`, if that has another size."""
        before = self.count
        with storage_errors(self.path):
            found = there.stat().st_size
            if found != self.size:
                raise CorruptError(f"{what} has {found:,} bytes, not {self.size:,}")
            self.path.unlink(missing_ok=True)
            try:
                os.link(there, self.path)
            except OSError:  # another file system, or one without links
                shutil.copyfile(there, self.path)
        self._hash()
        self.progress(self.count - before)

    def _hash(self) -> None:
        """Read what is there."""
        self.count, self._digest = 0, hashlib.sha256()
        with storage_errors(self.path), self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self._digest.update(chunk)
                self.count += len(chunk)
