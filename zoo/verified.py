"""What was checked before: hashing 220 MB takes longer than mapping them, and need not be done at every load.

For each entry's folder there is a small file below `ZOO_HOME/verified`, with the sha256 of each weight file and what
the file looked like when it was last hashed: size, times and inode. While all of it is the same, so are the bytes,
unless the disk itself lost some, which `zoo verify` finds because it always hashes. Whoever may write to the record may
write to the cache beside it: it guards against damage and exchange, not against the user's own account.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from zoo.errors import CorruptError, StorageError
from zoo.files import atomic_write, is_digest
from zoo.home import home
from zoo.regular import SMALL, read_regular

__all__ = ["FORMAT", "Mark", "forget", "look", "recall", "remember"]

FORMAT = "menagerie.verified/1"

_SETTLED = 2 * 10**9  # ns; the coarsest clock of a file system in use, FAT's


class Look(NamedTuple):
    """What a file looks like from outside; a change of its bytes changes this.

    `ctime_ns` is the kernel's own: it moves even where a tool puts the time of the last change back.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Mark(NamedTuple):
    """The sha256 of a file, and what the file looked like when it was hashed."""

    sha256: str
    look: Look


def look(file: os.stat_result) -> Look:
    """Return what a file looks like."""
    return Look(file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino)


def _path(folder: Path) -> Path:
    return home() / "verified" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()}.json"


def recall(folder: Path, weights: str) -> dict[str, Mark]:
    """Return file name -> mark, as recorded of the weight files in an entry's folder.

    It is empty if nothing is recorded, the record is damaged, or it is of other weights.

    Args:
        folder: the entry's.
        weights: the digest of the weights that the files should be, `Entry.weights_digest`.
    """
    try:
        table = json.loads(read_regular(_path(folder), SMALL))
        if (table["format"], table["weights"]) != (FORMAT, weights):
            return {}
        return {name: _mark(*values) for name, values in table["files"].items()}
    except (CorruptError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # the worst of it is that the files are hashed again


def _mark(sha256: object, *numbers: object) -> Mark:
    values = [n for n in numbers if type(n) is int]
    if not is_digest(sha256) or len(values) != len(numbers):
        raise ValueError("not a mark")
    return Mark(str(sha256), Look(*values))


def remember(folder: Path, weights: str, marks: Mapping[str, Mark]) -> None:
    """Record what the weight files in an entry's folder were found to be, instead of what was recorded before.

    Nothing is recorded of files that changed a moment ago: another change within the same tick of the file system's
    clock would not show. Nothing happens either if the record cannot be written: the next load hashes again.

    Args:
        folder: the entry's.
        weights: the digest of the weights that the files are.
        marks: file name -> mark.
    """
    now = time.time_ns()
    if any(max(mark.look.mtime_ns, mark.look.ctime_ns) > now - _SETTLED for mark in marks.values()):
        return
    files = {name: [mark.sha256, *mark.look] for name, mark in sorted(marks.items())}
    table = {"format": FORMAT, "folder": str(folder.resolve()), "weights": weights, "files": files}
    path = _path(folder)
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, (json.dumps(table, indent=1) + "\n").encode())


def forget(folder: Path) -> None:
    """Delete the record of an entry's folder, so that its files are hashed at the next load."""
    with suppress(OSError):  # it is not there, or its folder cannot be written to: then nothing was recorded either
        _path(folder).unlink()
