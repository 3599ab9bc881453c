"""A local folder as a source: its entries are used where they lie, and others can be filed in it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zoo.entry import Entry
from zoo.errors import CorruptError, MenagerieError, NotFoundError, StorageError
from zoo.files import SUMS, atomic_write, new_folder, parse_sums, storage_errors
from zoo.names import check_name, is_name
from zoo.regular import open_regular, read_regular
from zoo.sources.index import INDEX, Indexed, encode_index, indexed
from zoo.sources.transport import ignore

__all__ = ["FolderSource", "FolderTransport", "folder_index", "write_index"]

_CHUNK = 1 << 20


class FolderSource:
    """A folder with one sub-folder an entry, laid out as it gets published.

    Args:
        folder: need not exist; then it has no entries.
        label: what to call it, by default its path.
        own: nobody else puts folders there, so that one without `SHA256SUMS` is a damaged entry.
    """

    def __init__(self, folder: Path, label: str | None = None, *, own: bool = False) -> None:
        self.folder = folder
        self.label = label or str(folder)
        self._own = own

    def names(self) -> list[str]:
        """Return the names of the entries, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if is_name(p.name) and self._has(p))

    def get(self, name: str) -> Entry | None:
        """Return the entry, or None if the folder has no such name."""
        folder = self.folder / check_name(name)
        return Entry(name, folder, self.label) if self._has(folder) else None

    def _has(self, folder: Path) -> bool:
        return folder.is_dir() if self._own else (folder / SUMS).is_file()


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
        return read_regular(file, limit) if os.path.lexists(file) else None

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """See `Transport.fetch`; a copy that broke off begins again."""
        file = self.folder / path
        digest, copied = hashlib.sha256(), 0
        if not os.path.lexists(file):
            raise NotFoundError(f"{file} does not exist")
        try:
            part.unlink(missing_ok=True)  # which the Hub's cache may have under another name
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
                arrived = _write(folder, own)
                wanted = _wanted(folder)
                wrong = [file for file, digest in arrived.items() if digest != wanted.get(file, digest)]
                if wrong:
                    raise StorageError(f"{wrong[0]} of {name!r} did not arrive in {self.folder} as it was: try again")

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


def _wanted(folder: Path) -> Mapping[str, str]:
    """Return the sums that were written to a folder, if any were."""
    path = folder / SUMS
    return parse_sums(path.read_bytes(), str(path)) if path.exists() else {}


def _write(folder: Path, files: Mapping[str, bytes | Path]) -> dict[str, str]:
    """Write files, and return the sha256 of those that were copied."""
    arrived = {}
    for name, content in files.items():
        if (folder / name).is_symlink():
            raise StorageError(f"cannot write {folder / name}: it is a symbolic link, and others can write here too")
        if isinstance(content, bytes):
            atomic_write(folder / name, content)
        else:
            size, source = content.stat().st_size, FolderTransport(content.parent)
            arrived[name] = source.fetch(content.name, size, folder / name, ignore)
    return arrived


def folder_index(folder: Path) -> tuple[dict[str, Indexed], dict[str, str]]:
    """Return the index of a folder of entries, and what is wrong with those that have no place in it, by name."""
    source, found, wrong = FolderSource(folder), dict[str, Indexed](), dict[str, str]()
    for name in source.names():
        try:
            found[name] = indexed(Entry(name, folder / name, source.label), name)
        except MenagerieError as error:
            wrong[name] = str(error)
    return found, wrong


def write_index(folder: Path) -> tuple[dict[str, Indexed], dict[str, str]]:
    """Write the index of a folder of entries, so that it can be served; return as `folder_index`.

    Raises:
        StorageError: the disk refuses.
    """
    found, wrong = folder_index(folder)
    _write(folder, {INDEX: encode_index(found)})
    return found, wrong
