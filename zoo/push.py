"""Pushing: whole entries become those of another source, and its index says so."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError, UsageError
from zoo.files import SUMS
from zoo.sources.folder import FolderTransport, folder_index
from zoo.sources.index import INDEX, LONGEST_INDEX, Indexed, decode_index, encode_index, indexed
from zoo.sources.open import is_remote, open_transport
from zoo.sources.transport import ConflictError, Transport

__all__ = ["Push", "plan_push", "push"]

_TRIES = 5


@dataclass(frozen=True)
class Push:
    """What a push would do.

    Attributes:
        new: what the index will say of the entries that are written, by name.
        same: names of those that the source has already.
        index: what it says of all entries then.
    """

    new: Mapping[str, Indexed]
    same: Sequence[str]
    index: Mapping[str, Indexed]


def plan_push(entries: Sequence[Entry], to: str, *, replace: bool = False) -> Push:
    """Say what pushing entries to a source would do; errors as in `push`."""
    return _plan(entries, to, _transport(to), replace=replace)


def push(entries: Sequence[Entry], to: str, *, replace: bool = False, message: str | None = None) -> Push:
    """Write entries to a source, and then its index.

    An entry goes to the folder of its name below the source's root; an only one whose name is the last part of the
    source's URL (`hf://team/pyramid272-seed1`) goes to the root itself, so that its card is the repository's.

    Args:
        entries: whole ones; every file is checked first.
        to: a folder, `hf://...` or `s3://...`.
        replace: whether entries of these names in the source may be replaced.
        message: of the commit, where there is one.

    Raises:
        UsageError: the source has another entry of such a name, or can only be read.
        DataError: an entry is not whole.
        CorruptError: an entry is damaged, or the source's index.
        SourceError, StorageError: the source or the disk fail.
    """
    for entry in entries:
        _whole(entry).verify()
    for tries_left in reversed(range(_TRIES)):
        transport = _transport(to)
        try:
            with _alone(transport):
                return _push(entries, to, transport, replace=replace, message=message)
        except ConflictError:  # somebody else's entries are in the index now: theirs and ours belong there
            if not tries_left:
                raise
    raise AssertionError  # the last try returns or raises


def _push(entries: Sequence[Entry], to: str, transport: Transport, *, replace: bool, message: str | None) -> Push:
    plan = _plan(entries, to, transport, replace=replace)
    files: dict[str, bytes | Path] = {}
    for entry in entries:
        if entry.name in plan.new:
            at = plan.new[entry.name].path
            files |= {f"{at}/{file}".lstrip("/"): entry.folder / file for file in (*entry.sums, SUMS)}
    if files:
        files[INDEX] = encode_index(plan.index)
        transport.publish(files, message or f"Add {', '.join(plan.new)}")
    return plan


def _whole(entry: Entry) -> Entry:
    if entry.partial:
        raise DataError(f"{entry.name!r} has no weights here, only its predictions: `zoo pull {entry.name}` first")
    return entry


def _plan(entries: Sequence[Entry], to: str, transport: Transport, *, replace: bool) -> Push:
    there = _index(transport)
    alone = is_remote(to) and len(entries) == 1 and there.keys() <= {entries[0].name} and _last(to) == entries[0].name
    new = {_whole(e).name: indexed(e, "" if alone else e.name) for e in entries}
    same = [name for name, about in new.items() if name in there and there[name].sums == about.sums]
    for name in new.keys() - {*same}:
        if not replace and (name in there or _is_damaged(name, transport)):
            raise UsageError(f"{transport.label} has another {name!r} already (--replace replaces it)")
    new = {name: about for name, about in new.items() if name not in same}
    return Push(new, same, {**there, **new})


def _index(transport: Transport) -> dict[str, Indexed]:
    """Return the index of a source; of a folder, what it is now."""
    if isinstance(transport, FolderTransport):
        return folder_index(transport.folder)[0]
    try:
        content = transport.read(INDEX, LONGEST_INDEX)
    except NotFoundError:  # not even the repository: publishing makes it
        content = None
    return decode_index(content, transport.label) if content is not None else {}


def _is_damaged(name: str, transport: Transport) -> bool:
    """Say whether a folder has something of this name that is not in its index."""
    return isinstance(transport, FolderTransport) and (transport.folder / name).exists()


def _last(to: str) -> str:
    """Return the last part of a source's URL, without a revision."""
    return to.rstrip("/").rpartition("/")[2].partition("@")[0]


def _transport(to: str) -> Transport:
    if to.partition("://")[0].lower() in {"http", "https"}:
        raise UsageError(f"{to} can only be read: push to the folder or bucket behind it")
    return open_transport(to) if is_remote(to) else FolderTransport(Path(to).expanduser())


def _alone(transport: Transport) -> AbstractContextManager[None]:
    return transport.exclusively() if isinstance(transport, FolderTransport) else nullcontext()
