"""What a remote source must be able to do: read small files, fetch large ones, take new ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from zoo.errors import SourceError

__all__ = ["ConflictError", "Transport", "ignore"]


class ConflictError(SourceError):
    """Somebody else published meanwhile; what was to be written follows from what was read before that."""


class Transport(Protocol):
    """Files of a source, by their path below its root (`index.json`, `NAME/config.json`, ...; `/` between parts).

    Whoever uses one checks every file's sha256: a transport only has to bring bytes.

    Attributes:
        label: what to call the source, as the user wrote it.
    """

    label: str

    def read(self, path: str, limit: int) -> bytes | None:
        """Return the bytes of a small file, or None if the source has none of this path.

        Args:
            path: below the source's root.
            limit: bytes that it may have; a longer one is not read to its end.

        Raises:
            CorruptError: the file is longer than `limit`.
            SourceError: the source cannot be reached, or refuses.
        """

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """Bring a large file to `part`, going on after the bytes that are there already.

        Args:
            path: below the source's root.
            size: bytes that the file has; no more are taken.
            part: local file, need not exist; its folder does. What has arrived stays there if this fails.
            progress: called with the number of bytes that have come in since its last call; what was there before
                does not count. Bytes that are too many, or cannot be the file's beginning, are as good as not there.

        Returns:
            The sha256 (64 hex digits) of what `part` holds now, computed while the bytes arrive.

        Raises:
            NotFoundError: the source has no such file.
            CorruptError: the source's file does not have `size` bytes.
            SourceError: the source cannot be reached, refuses, or breaks off (after a few tries).
            StorageError: the disk refuses.
        """

    def publish(self, files: Mapping[str, bytes | Path], message: str) -> None:
        """Write files, in this order or all at once; existing ones are replaced.

        A file that this object has read before, or has found missing, is replaced as it was then or not at all: with
        an index last in `files`, of two who read it and publish at the same time, the second gets a `ConflictError`.
        To try again, read anew, with a new object.

        Args:
            files: path below the source's root -> content, or the local file that has it.
            message: what for, in a line; for sources that keep a history.

        Raises:
            UsageError: this kind of source can only be read.
            ConflictError: a file has changed since this object read it; neither it nor one after it was written.
            SourceError: the source cannot be reached, or refuses.
        """


def ignore(amount: int) -> None:
    """Show no progress."""
    del amount
