"""Files that somebody else may have put there: only regular ones are opened, and small ones are bounded."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from zoo.errors import CorruptError

__all__ = ["SMALL", "open_regular", "read_regular"]

SMALL = 2**20
"""Bytes that `config.json`, `README.md`, `SHA256SUMS` and an index of shards may have, each."""

# Where a system has them: a link put there after the check is not followed, and a pipe does not block.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        CorruptError: it cannot be read, or is a symbolic link, a folder, a pipe or a device.
    """
    if path.is_symlink():
        raise CorruptError(f"{path} is a symbolic link, and an entry has none")
    try:
        handle = os.open(path, _FLAGS)
    except OSError as error:
        raise CorruptError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CorruptError(f"{path} is no regular file, and an entry has no others")
    return os.fdopen(handle, "rb")


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Return the bytes of a file.

    Args:
        path: of the file.
        limit: bytes that it may have; a longer one is not read.

    Raises:
        CorruptError: as in `open_regular`, or the file is longer than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise CorruptError(f"{path} has {size:,} bytes, where at most {limit:,} are sensible")
        try:
            return file.read(-1 if limit is None else limit)
        except OSError as error:
            raise CorruptError(f"{path} cannot be read: {error.strerror}") from error
