"""`index.json` at the root of a source: everything that a list shows, in one request."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from zoo.entry import Entry
from zoo.errors import CorruptError, UsageError
from zoo.files import SUMS, is_digest, is_plain
from zoo.header import unique
from zoo.listing import Listed, listed
from zoo.names import check_name

__all__ = ["INDEX", "LONGEST_INDEX", "Indexed", "decode_index", "encode_index", "indexed"]

INDEX = "index.json"
LONGEST_INDEX = 64 << 20
"""Bytes; an index of 50,000 entries has about as many."""

_FORMAT = "menagerie.index/1"
_MOST_BYTES = 1 << 40


@dataclass(frozen=True)
class Indexed:
    """What an index says of an entry.

    Attributes:
        listed: what a list shows.
        path: of its folder below the source's root; empty if the root itself is the entry.
        sums: sha256 of its `SHA256SUMS`, which has the others'.
        files: name -> bytes of every file that the sums cover.
    """

    listed: Listed
    path: str
    sums: str
    files: Mapping[str, int]


def indexed(entry: Entry, path: str) -> Indexed:
    """Return what an index says of a whole entry on disk that gets published at `path`.

    Raises:
        CorruptError: its sums or its card cannot be trusted, or a file is missing.
    """
    said = listed(entry)
    try:
        sizes = {file: (entry.folder / file).stat().st_size for file in entry.sums}
        digest = hashlib.sha256((entry.folder / SUMS).read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptError(f"{error.filename} cannot be read: {error.strerror}") from error
    return Indexed(said, path, digest, sizes)


def encode_index(index: Mapping[str, Indexed]) -> bytes:
    """Return the bytes of `index.json`: equal indexes are equal bytes."""
    entries = {
        name: {**asdict(one.listed), "path": one.path, "sums": one.sums, "files": dict(one.files)}
        for name, one in index.items()
    }
    return (json.dumps({"format": _FORMAT, "entries": entries}, indent=1, sort_keys=True) + "\n").encode()


def decode_index(content: bytes, where: str) -> dict[str, Indexed]:
    """Read `index.json`; `where` names the source in errors. Nothing in it is trusted but to be checked again.

    Raises:
        CorruptError: not an index of this format; a name, path, size or digest that is none.
    """
    try:
        table = json.loads(content, object_pairs_hook=unique)
        found, entries = table["format"], table["entries"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"the {INDEX} of {where} is not the index of a zoo") from error
    if found != _FORMAT:
        raise CorruptError(f"the {INDEX} of {where} has the format {str(found)[:40]!r}, this version reads {_FORMAT!r}")
    try:
        return {check_name(name): _read(name, about) for name, about in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise CorruptError(f"the {INDEX} of {where} is malformed: {error}") from error


def _read(name: str, about: dict[str, Any]) -> Indexed:
    """Return an entry of an index; `KeyError`, `TypeError` or `ValueError` say what is wrong."""
    row = Listed(**{field.name: about[field.name] for field in fields(Listed)})
    files, accuracy = about["files"], row.accuracy
    for what, ok in {
        "name": row.name == name,
        "path": about["path"] in {"", name},
        "sums": is_digest(about["sums"]),
        "files": type(files) is dict and all(is_plain(file) and _is_count(size) for file, size in files.items()),
        "architecture": type(row.architecture) is str,
        "dataset": type(row.dataset) is str,
        "accuracy": accuracy is None or (type(accuracy) in {int, float} and 0 <= accuracy <= 1),
        "parameters": _is_count(row.parameters),
        "multiply_adds": _is_count(row.multiply_adds),
        "bytes": _is_count(row.bytes),
    }.items():
        if not ok:
            raise ValueError(f"{what} of {name!r} is not what an index has there")
    return Indexed(row, about["path"], about["sums"], files)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_BYTES * 8
