"""Where entries come from: the builtin ones, the cache, a checkout's `checkpoints/`, and `ZOO_SOURCE`."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from zoo import verified
from zoo.entry import Entry
from zoo.errors import CorruptError, MenagerieError, NotFoundError, UsageError
from zoo.files import storage_errors
from zoo.home import cache_folder, home
from zoo.names import check_name, is_pattern, match, suggestion
from zoo.origins import Share, forget_origin, read_origin
from zoo.places import Source, asked, builtin, is_cache, local, named, open_source, sources
from zoo.pull import pull_entry
from zoo.sources.folder import FolderSource
from zoo.sources.remote import RemoteEntry
from zoo.sources.transport import ignore

__all__ = [
    "FolderSource",
    "Source",
    "asked",
    "cache_folder",
    "cached",
    "cached_names",
    "check_new",
    "find",
    "home",
    "is_here",
    "local",
    "look",
    "look_up",
    "names",
    "offer",
    "open_source",
    "pull",
    "remove",
    "repair",
    "resolve",
    "sources",
    "whole",
]

_log = logging.getLogger(__name__)


def names(among: Sequence[Source] | None = None) -> list[str]:
    """Return the names of the entries of some sources, by default all, sorted.

    Raises:
        NotFoundError, CorruptError, SourceError: a source is none, or cannot be reached.
    """
    return sorted({name for source in (sources() if among is None else among) for name in source.names()})


def look(name: str, among: Sequence[Source] | None = None) -> Entry | RemoteEntry:
    """Return the entry from the first source that has it, wherever that is; nothing is brought here.

    A source that cannot be asked is warned of, if a later one has the entry.

    Raises:
        UsageError: not a well-formed name.
        NotFoundError: no source has it; the message says which were asked, and what to do.
        CorruptError, SourceError: a source that was asked is none, or cannot be reached.
    """
    check_name(name)
    places = sources() if among is None else among
    failed: list[MenagerieError] = []
    for source in places:
        try:
            entry = source.get(name)
        except MenagerieError as error:
            failed.append(error)
            continue
        if entry is not None:
            _warn(failed)
            return entry
    if failed:
        raise failed[0]
    hint = suggestion(name, names(places))
    raise NotFoundError(f"no entry {name!r} in {', '.join(s.label for s in places)}{hint}")


def look_up(pattern: str, among: Sequence[Source] | None = None) -> list[Entry | RemoteEntry]:
    """Return the entries that a name or shell pattern means, sorted by name.

    A source that cannot be asked is warned of, if others have entries that the pattern matches.

    Raises: as `look` and `match`.
    """
    places = sources() if among is None else among
    if not is_pattern(pattern):
        return [look(pattern, places)]
    known, failed, asked_well = set[str](), list[MenagerieError](), list[Source]()
    for source in places:
        try:
            known |= {*source.names()}
            asked_well.append(source)
        except MenagerieError as error:
            failed.append(error)
    if failed and not any(fnmatchcase(name, pattern) for name in known):
        raise failed[0]
    _warn(failed)
    return [look(name, asked_well) for name in match(pattern, sorted(known))]


def _warn(failed: Sequence[MenagerieError]) -> None:
    for error in failed:
        _log.warning("%s; left out", error)


def find(name: str, among: Sequence[Source] | None = None) -> Entry:
    """Return the entry from the first source that has it, on this machine.

    Of an entry that only a remote source has, all but the weights are pulled: the card and the predictions, which are
    small, and all that evaluating needs.

    Raises: as `look` and `pull_entry`.
    """
    return _here(look(name, among))


def resolve(pattern: str, among: Sequence[Source] | None = None) -> list[Entry]:
    """Return the entries that a name or shell pattern means, as `find` does; errors as in `find` and `match`."""
    return [_here(found) for found in look_up(pattern, among)]


def _here(found: Entry | RemoteEntry) -> Entry:
    return found if isinstance(found, Entry) else pull_entry(found, "predictions")


def check_new(name: str, folder: Path, *, replace: bool = False) -> None:
    """Raise `UsageError` if an entry of this name must not be filed in `folder`."""
    check_name(name)
    if folder == cache_folder() and builtin().get(name):
        raise UsageError(f"{name!r} is builtin and cannot be shadowed")
    if (folder / name).exists() and not replace:
        raise UsageError(f"{name!r} exists already in {folder} (--replace replaces it)")


def is_here(found: Entry | RemoteEntry) -> bool:
    """Say whether an entry is in the package or the cache."""
    return isinstance(found, Entry) and found.folder.parent in {builtin().folder, cache_folder()}


def offer(found: Entry | RemoteEntry) -> RemoteEntry:
    """Return an entry as one that `pull_entry` takes.

    One of the cache that is there in part, or damaged, is looked for where it came from, and then in the other sources.

    Raises:
        UsageError: it is builtin, or must not be shadowed.
        NotFoundError: no source has an entry of this name with the same sums.
        CorruptError, SourceError: of the only source that has the name.
    """
    if isinstance(found, RemoteEntry):
        check_new(found.name, cache_folder(), replace=True)
        return found
    if found.folder.parent != cache_folder():
        check_new(found.name, cache_folder(), replace=True)
        return RemoteEntry.of(found)
    return _origin_of(found.name, found.publication)


def repair(entry: Entry) -> Entry:
    """Bring a damaged entry of the cache again, and return it.

    Raises:
        CorruptError: it is not in the cache, or nobody can say what it was: whoever keeps or made it has to mend it.
        NotFoundError: no source has it any more.
        SourceError, StorageError: a source or the disk fail.
    """
    if entry.folder.parent != cache_folder():
        raise CorruptError(f"{entry.folder} is not in the cache: --fix leaves it alone")
    note = read_origin(entry.name)
    try:
        publication = note.sums if note else entry.publication
    except CorruptError as error:
        raise CorruptError(f"{error}; it was not pulled, so nobody else can say what it was") from error
    return pull_entry(_origin_of(entry.name, publication), note.share if note else "all", replace=True)


def _origin_of(name: str, publication: str) -> RemoteEntry:
    """Look an entry up where it came from, and then in the other sources; only the same publication will do."""
    note = read_origin(name)
    others = [s for s in sources() if not is_cache(s)]
    if note is not None and not any(note.source in {s.label, _place(s)} for s in others):
        others.insert(0, named(note.source))
    failed: list[MenagerieError] = []
    for source in others:
        try:
            there = source.get(name)
            one = RemoteEntry.of(there) if isinstance(there, Entry) else there
        except MenagerieError as error:
            failed.append(error)
            continue
        if one is not None and one.indexed.sums == publication:
            return one
    if failed:
        raise failed[0]
    asked_ones = ", ".join(s.label for s in others)
    raise NotFoundError(f"no source has {name!r} as it is in the cache (asked: {asked_ones}); give --from SOURCE")


def _place(source: Source) -> str | None:
    return str(source.folder.absolute()) if isinstance(source, FolderSource) else None


def pull(
    found: Entry | RemoteEntry,
    share: Share = "all",
    *,
    replace: bool = False,
    progress: Callable[[int], None] = ignore,
) -> Entry:
    """Bring an entry into the cache, verified, and return it there.

    Args:
        found: from any source; one of the package or the cache is verified, and completed if it is there in part.
        share: what of it.
        replace: bring all of it again, whatever the cache has.
        progress: called with the number of bytes that have come in.

    Raises: as `offer` and `pull_entry`; nothing is left half-copied.
    """
    if isinstance(found, Entry) and is_here(found) and not replace:
        found.verify()
        if share == "predictions" or not found.missing:
            return found
    return pull_entry(offer(found), share, replace=replace, progress=progress)


def whole(entry: Entry) -> Entry:
    """Return an entry with its weights: pulled, if only its predictions are here; errors as in `pull`."""
    return pull(entry) if entry.partial else entry


def cached_names(pattern: str) -> list[str]:
    """Return the names in the cache that a pattern matches, or the name itself; errors as in `match`."""
    return match(pattern, FolderSource(cache_folder()).names()) if is_pattern(pattern) else [pattern]


def cached(name: str) -> Path:
    """Return the folder of an entry in the cache.

    Raises:
        UsageError: it is builtin, or the name is malformed.
        NotFoundError: the cache has no such entry.
    """
    folder = cache_folder() / check_name(name)
    if folder.is_dir():
        return folder
    if builtin().get(name):
        raise UsageError(f"{name!r} is builtin: it is part of the package and cannot be removed")
    raise NotFoundError(f"no entry {name!r} in the cache{suggestion(name, FolderSource(cache_folder()).names())}")


def remove(name: str) -> Path:
    """Delete an entry from the cache and return the folder it was in; errors as in `cached`, and `StorageError`.

    What a pull of it left behind goes as well.
    """
    folder, rest = cached(name), home() / "incoming" / name
    with storage_errors(folder):
        rest.mkdir(parents=True, exist_ok=True)
        gone = Path(tempfile.mkdtemp(prefix="removed.", dir=rest))
        folder.replace(gone / name)  # at once: half an entry is none
        shutil.rmtree(rest)
    verified.forget(folder)
    forget_origin(name)
    return folder
