"""Pulling: an entry of any source becomes one of the cache, whole or not at all.

Files arrive in `ZOO_HOME/incoming/NAME/`, under a name that has their sha256, so that a transfer that broke off goes
on. When all are there and checked, their folder is renamed into the cache. A lock for each name, which the system lets
go of when a process dies, keeps processes that pull the same entry from working twice.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.entry import Entry
from zoo.errors import CorruptError, UsageError
from zoo.files import SUMS, atomic_write, storage_errors
from zoo.home import cache_folder, home
from zoo.origins import Origin, Share, write_origin
from zoo.shards import is_weights
from zoo.sources.remote import RemoteEntry
from zoo.sources.transport import ignore

__all__ = ["missing_bytes", "pull_entry", "recover", "resumed_bytes"]

_log = logging.getLogger(__name__)
_SOON = 1.0
"""Seconds after which waiting is said."""


def missing_bytes(entry: RemoteEntry, share: Share = "all", *, replace: bool = False) -> int:
    """Return how many bytes of an entry a pull would bring: 0 if the cache has what is asked for.

    Raises:
        UsageError: the cache has another entry of this name, and `replace` is false.
    """
    folder = _there(entry, replace=replace)
    return sum(
        entry.indexed.files[file] for file in _wanted(entry, share) if folder is None or not (folder / file).exists()
    )


def pull_entry(
    entry: RemoteEntry,
    share: Share = "all",
    *,
    replace: bool = False,
    progress: Callable[[int], None] = ignore,
) -> Entry:
    """Bring an entry into the cache and return it there, every file's sha256 checked.

    An entry that the cache has in part is completed. What has arrived before an error is kept for the next try.

    Args:
        entry: of a source.
        share: what to bring.
        replace: bring all of it again, in place of an entry of this name in the cache.
        progress: called with the number of bytes that have come in now.

    Raises:
        UsageError: the cache has another entry of this name, and `replace` is false.
        CorruptError: the source's files are not those that were published.
        NotFoundError, SourceError, StorageError: the source or the disk fail.
    """
    target = cache_folder() / entry.name
    recover()
    with _only_one(entry.name):
        wanted = _wanted(entry, share)
        there = _there(entry, replace=replace)
        absent = [file for file in wanted if there is None or not (there / file).exists()]
        parts = _parts(entry.name)
        with storage_errors(parts):
            parts.mkdir(parents=True, exist_ok=True)
        for file in absent:
            _bring(entry, file, _part(entry, file, parts), progress)
        with storage_errors(target):
            if there is None:
                _file(entry, share, parts, target)
            else:
                for file in absent:
                    _part(entry, file, parts).replace(target / file)
                Entry(entry.name, target, "cache").verify(weightless=share == "predictions")  # what was there as well
                if share == "all":
                    _remember(entry, share)
        shutil.rmtree(parts, ignore_errors=True)
    return Entry(entry.name, target, "cache")


def resumed_bytes(entry: RemoteEntry, share: Share = "all") -> int:
    """Return how many bytes of an entry have arrived already, in a pull that broke off."""
    count = 0
    for file in _wanted(entry, share):
        part = _part(entry, file, _parts(entry.name))
        size = part.stat().st_size if part.is_file() else 0
        count += size if size <= entry.indexed.files[file] else 0  # one that is too long is begun anew
    return count


def recover() -> None:
    """Put back what a killed process moved out of the cache to replace it, if the new entry did not get there."""
    for old in (home() / "incoming").glob("*/old"):
        target = cache_folder() / old.parent.name
        with suppress(Timeout), _lock(old.parent.name).acquire(timeout=0):  # held: that process lives
            if old.exists() and not target.exists():
                with storage_errors(target):
                    old.replace(target)


def _there(entry: RemoteEntry, *, replace: bool) -> Path | None:
    """Return the entry's folder in the cache, if it is there, be it in part, and shall not be replaced."""
    folder = cache_folder() / entry.name
    if replace or not folder.exists():
        return None
    try:
        same = (folder / SUMS).read_bytes() == entry.sums_text
    except OSError:
        same = False
    if not same:
        raise UsageError(
            f"{entry.name!r} exists already in {folder.parent}, with other content (--replace replaces it)"
        )
    return folder


def _wanted(entry: RemoteEntry, share: Share) -> list[str]:
    return [file for file in entry.sums if share == "all" or not is_weights(file)]


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Wait until no other process pulls an entry of this name, and let none begin."""
    lock = _lock(name)
    try:
        lock.acquire(timeout=_SOON)
    except Timeout:
        _log.warning("waiting for another process that pulls %s", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(name: str) -> FileLock:
    folder = home() / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def _parts(name: str) -> Path:
    return home() / "incoming" / name


def _part(entry: RemoteEntry, file: str, parts: Path) -> Path:
    """Return where a file arrives: another version of it arrives elsewhere."""
    return parts / f"{entry.sums[file][:16]}.{file}"


def _bring(entry: RemoteEntry, file: str, part: Path, progress: Callable[[int], None]) -> None:
    """Fetch a file; once more from the beginning if it is the wrong one: a rest of an earlier try may be damaged."""
    for _ in range(2):
        found = entry.fetch(file, part, progress)
        if found == entry.sums[file]:
            return
        part.unlink(missing_ok=True)
    raise CorruptError(
        f"{file} of {entry.name!r} from {entry.source} is damaged: its sha256 is not the one in {SUMS} "
        "(nothing of it was kept)"
    )


def _file(entry: RemoteEntry, share: Share, parts: Path, target: Path) -> None:
    """Make the entry's folder of its parts and put it where `target` is."""
    folder, old = parts / "entry", parts / "old"
    for rest in (folder, old):  # of a try that was killed
        shutil.rmtree(rest, ignore_errors=True)
    folder.mkdir()
    try:
        for file in _wanted(entry, share):
            _part(entry, file, parts).replace(folder / file)
        atomic_write(folder / SUMS, entry.sums_text)
        Entry(entry.name, folder, "cache").verify(hashed=True, weightless=share == "predictions")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _remember(entry, share)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.replace(old)
    folder.replace(target)


def _remember(entry: RemoteEntry, share: Share) -> None:
    write_origin(entry.name, Origin(entry.place, entry.indexed.sums, share))
