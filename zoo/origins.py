"""Where the entries of the cache came from: a note beside the cache for each, so that they can be completed and mended.

A note is of one publication: it counts only as long as the entry's `SHA256SUMS` is the one that it names.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from zoo.files import atomic_write, is_digest, storage_errors
from zoo.home import home

__all__ = ["Origin", "Share", "forget_origin", "read_origin", "write_origin"]

Share = Literal["all", "predictions"]
"""What of an entry was brought: everything, or all but the weights."""


@dataclass(frozen=True)
class Origin:
    """Where an entry came from.

    Attributes:
        source: label of a remote source, or absolute path of a folder.
        sums: sha256 of the entry's `SHA256SUMS`.
        share: what was asked for.
    """

    source: str
    sums: str
    share: Share


def _path(name: str) -> Path:
    return home() / "origins" / f"{name}.json"


def read_origin(name: str) -> Origin | None:
    """Return the note of an entry of the cache; None if there is none that can be read, as for those made here."""
    try:
        table = json.loads(_path(name).read_text(encoding="utf-8"))
        origin = Origin(**table)
    except (OSError, ValueError, TypeError):
        return None
    sound = type(origin.source) is str and is_digest(origin.sums) and origin.share in {"all", "predictions"}
    return origin if sound else None


def write_origin(name: str, origin: Origin) -> None:
    """Note where an entry came from; `StorageError` if the disk refuses."""
    path = _path(name)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(asdict(origin)).encode())


def forget_origin(name: str) -> None:
    """Delete the note of an entry that is gone, or made here now; `StorageError` if the disk refuses."""
    with storage_errors(_path(name)):
        _path(name).unlink(missing_ok=True)
