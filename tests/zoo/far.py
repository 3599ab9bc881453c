"""A folder as if it were far away."""

from collections.abc import Callable, Mapping
from pathlib import Path

from zoo.errors import SourceError
from zoo.sources.folder import FolderTransport
from zoo.sources.remote import RemoteSource
from zoo.sources.transport import Transport, ignore


class Counting:
    """Writes down what is asked for."""

    label = "far://away"

    def __init__(self, folder: Path) -> None:
        self._folder = FolderTransport(folder)
        self.asked: list[str] = []

    def read(self, path: str, limit: int) -> bytes | None:
        self.asked.append(path)
        return self._folder.read(path, limit)

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        self.asked.append(path)
        return self._folder.fetch(path, size, part, progress)

    def publish(self, files: Mapping[str, bytes | Path], message: str) -> None:
        self._folder.publish(files, message)


class Flaky(Counting):
    """Breaks off every fetch after a number of bytes more, and goes on after what is there.

    Args:
        folder: the source's root.
        after: bytes.
    """

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.root, self.after, self.sent = folder, after, 0

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        there = part.read_bytes() if part.exists() else b""
        more = (self.root / path).read_bytes()[len(there) :]
        part.write_bytes(there + more[: self.after])
        self.sent += min(len(more), self.after)
        if len(more) > self.after:
            raise SourceError(f"{self.label} broke off: the same command goes on")
        whole = part.with_name("whole")
        digest = self._folder.fetch(path, size, whole, ignore)
        whole.unlink()
        assert part.stat().st_size == size
        progress(size)
        return digest


def far(transport: Transport) -> RemoteSource:
    """Return the source behind a transport."""
    return RemoteSource(transport.label, lambda: transport)
