"""A local folder as a source: its entries are used where they lie, and others can be filed in it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zoo.entry import Entry
from zoo.errors import CorruptError, NotFoundError, StorageError
from zoo.files import SUMS, atomic_write, new_folder, storage_errors
from zoo.names import check_name, is_name
from zoo.regular import open_regular
from zoo.sources.index import INDEX, encode_index, indexed
from zoo.sources.transport import ignore

__all__ = ["FolderSource", "FolderTransport", "write_index"]

_CHUNK = 1 << 20


class FolderSource:
    """A folder with one sub-folder an entry, laid out as it gets published.

    Args:
        folder: need not exist; then it has no entries.
        label: what to call it, by default its path.
    """

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self.folder = folder
        self.label = label or str(folder)

    def names(self) -> list[str]:
        """Return the names of the entries, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if is_name(p.name) and (p / SUMS).is_file())

    def get(self, name: str) -> Entry | None:
        """Return the entry, or None if the folder has no such name."""
        folder = self.folder / check_name(name)
        return Entry(name, folder, self.label) if (folder / SUMS).is_file() else None


class FolderTransport:
    """The files of a local folder, for copying; see `Transport`.

    Args:
        folder: the source's root.
        label: what to call it, by default its path.
    """

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self.folder = folder
        self.label = label or str(folder)

    def read(self, path: str, limit: int) -> bytes | None:
        """See `Transport.read`."""
        file = self.folder / path
        try:
            with file.open("rb") as opened:
                content = opened.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}") from error
        if len(content) > limit:
            raise CorruptError(f"{file} is longer than the {limit:,} bytes that such a file may have")
        return content

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """See `Transport.fetch`; a copy that broke off begins again."""
        file = self.folder / path
        digest, copied = hashlib.sha256(), 0
        if not os.path.lexists(file):
            raise NotFoundError(f"{file} does not exist")
        try:
            with open_regular(file) as source, storage_errors(part), part.open("wb") as target:
                while copied <= size and (chunk := source.read(_CHUNK)):
                    digest.update(chunk)
                    target.write(chunk)
                    copied += len(chunk)
                    progress(len(chunk))
            if copied != size:
                raise CorruptError(f"{file} does not have the {size:,} bytes that it was published with")
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def publish(self, files: Mapping[str, bytes | Path], message: str) -> None:
        """See `Transport.publish`; the files of an entry appear together, or not at all."""
        del message
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(path.rpartition("/")[0] for path in files):
            own = {path.rpartition("/")[2]: files[path] for path in files if path.rpartition("/")[0] == name}
            if not name:
                _write(self.folder, own)
                continue
            with new_folder(self.folder / name, replace=True) as folder:
                _write(folder, own)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Let no other process publish here meanwhile."""
        from filelock import FileLock  # noqa: PLC0415

        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _write(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    for name, content in files.items():
        if isinstance(content, bytes):
            atomic_write(folder / name, content)
        else:
            FolderTransport(content.parent).fetch(content.name, content.stat().st_size, folder / name, ignore)


def write_index(folder: Path) -> list[str]:
    """Write the index of a folder of entries, so that it can be served; return their names.

    Raises:
        CorruptError: an entry's sums or card cannot be trusted.
        StorageError: the disk refuses.
    """
    source = FolderSource(folder)
    entries = [Entry(name, folder / name, source.label) for name in source.names()]
    atomic_write(folder / INDEX, encode_index({entry.name: indexed(entry, entry.name) for entry in entries}))
    return [entry.name for entry in entries]
