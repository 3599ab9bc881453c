"""Where entries come from: the builtin ones, the cache, a checkout's `checkpoints/`, and `ZOO_SOURCE`."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from zoo import verified
from zoo.entry import Entry
from zoo.errors import CorruptError, NotFoundError, UsageError
from zoo.files import storage_errors
from zoo.home import cache_folder, home
from zoo.names import check_name, is_pattern, match, suggestion
from zoo.pull import Share, origin, pull_entry
from zoo.sources.folder import FolderSource
from zoo.sources.open import is_remote, open_transport
from zoo.sources.remote import RemoteEntry, RemoteSource
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

_PACKAGE = Path(__file__).parent


class Source(Protocol):
    """A place that has entries. A folder is one, whose entries are used where they lie; a hub is another."""

    label: str

    def names(self) -> list[str]:
        """Return the names of the entries, sorted."""

    def get(self, name: str) -> Entry | RemoteEntry | None:
        """Return the entry, or None if the source has no such name."""


def open_source(text: str, revision: str | None = None) -> Source:
    """Return the source that `text` names: a folder, `hf://`, `s3://` or `https://`.

    Args:
        text: as `--from` and `ZOO_SOURCE` have it.
        revision: branch, tag or commit, for a source that has them.

    Raises:
        UsageError: malformed, or a kind of source that this version cannot read.
        NotFoundError: the folder does not exist.
    """
    if is_remote(text):
        return RemoteSource(open_transport(text, revision))
    if revision is not None:
        raise UsageError(f"--revision {revision}: {text!r} is a folder, which has no revisions")
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"source {text!r} is not a folder")
    return FolderSource(folder)


def sources() -> list[Source]:
    """Return the sources in the order they are asked."""
    found: list[Source] = [FolderSource(_PACKAGE / "builtin", "builtin"), FolderSource(cache_folder(), "cache")]
    checkout = _PACKAGE.parent / "checkpoints"
    if checkout.is_dir():
        found.append(FolderSource(checkout, "checkpoints"))
    return found + [open_source(s.strip()) for s in os.environ.get("ZOO_SOURCE", "").split(",") if s.strip()]


def asked(source: str | None, *, revision: str | None = None, afresh: bool = False) -> list[Source]:
    """Return the one source that `--from` names, or all of them; errors as in `open_source`.

    Args:
        source: the value of `--from`.
        revision: the value of `--revision`, which goes with it.
        afresh: leave the cache out, to replace what it has (which may be damaged).
    """
    if source:
        return [open_source(source, revision)]
    if revision is not None:
        raise UsageError("--revision goes with --from")
    return [s for s in sources() if not (afresh and _is_cache(s))]


def _is_cache(source: Source) -> bool:
    return isinstance(source, FolderSource) and source.folder == cache_folder()


def local(among: Sequence[Source]) -> list[Source]:
    """Return those of some sources that are folders.

    Raises:
        UsageError: there is none among them.
    """
    folders = [source for source in among if isinstance(source, FolderSource)]
    if not folders:
        raise UsageError(f"{among[0].label} is not on this machine: `zoo pull` checks what it brings")
    return [*folders]


def names(among: Sequence[Source] | None = None) -> list[str]:
    """Return the names of the entries of some sources, by default all, sorted."""
    return sorted({name for source in (sources() if among is None else among) for name in source.names()})


def look(name: str, among: Sequence[Source] | None = None) -> Entry | RemoteEntry:
    """Return the entry from the first source that has it, wherever that is; nothing is brought here.

    Raises:
        UsageError: not a well-formed name.
        NotFoundError: no source has it; the message says which were asked, and what to do.
        CorruptError, SourceError: a source that was asked is none, or cannot be reached.
    """
    check_name(name)
    places = sources() if among is None else among
    for source in places:
        entry = source.get(name)
        if entry is not None:
            return entry
    hint = suggestion(name, [n for source in places for n in source.names()])
    raise NotFoundError(f"no entry {name!r} in {', '.join(s.label for s in places)}{hint}")


def look_up(pattern: str, among: Sequence[Source] | None = None) -> list[Entry | RemoteEntry]:
    """Return the entries that a name or shell pattern means, sorted by name; errors as in `look` and `match`."""
    if not is_pattern(pattern):
        return [look(pattern, among)]
    places = sources() if among is None else among
    return [look(name, places) for name in match(pattern, names(places))]


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
    if folder == cache_folder() and FolderSource(_PACKAGE / "builtin").get(name):
        raise UsageError(f"{name!r} is builtin and cannot be shadowed")
    if (folder / name).exists() and not replace:
        raise UsageError(f"{name!r} exists already in {folder} (--replace replaces it)")


def is_here(found: Entry | RemoteEntry) -> bool:
    """Say whether an entry is in the package or the cache."""
    return isinstance(found, Entry) and found.folder.parent in {_PACKAGE / "builtin", cache_folder()}


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
    return _origin_of(found, found.sums)


def repair(entry: Entry) -> Entry:
    """Bring a damaged entry of the cache again, and return it.

    Raises:
        CorruptError: it is not in the cache, so whoever keeps it has to mend it.
        NotFoundError: no source has it any more.
        SourceError, StorageError: a source or the disk fail.
    """
    if entry.folder.parent != cache_folder():
        raise CorruptError(f"{entry.folder} is not in the cache: --fix leaves it alone")
    try:
        sums = entry.sums
    except CorruptError:
        sums = None
    share: Share = "predictions" if sums and entry.missing else "all"
    return pull_entry(_origin_of(entry, sums), share, replace=True)


def _origin_of(found: Entry, sums: Mapping[str, str] | None) -> RemoteEntry:
    """Look an entry of the cache up where it came from, and then in the other sources; any sums will do for None."""
    label = origin(found.name)
    first = [open_source(label)] if label and (is_remote(label) or Path(label).is_dir()) else []
    others = [s for s in sources() if not _is_cache(s) and s.label != label]
    for source in (*first, *others):
        there = source.get(found.name)
        one = RemoteEntry.of(there) if isinstance(there, Entry) else there
        if one is not None and (sums is None or one.sums == sums):
            return one
    raise NotFoundError(
        f"no source has {found.name!r} as it is in the cache (asked: {', '.join(s.label for s in (*first, *others))}); "
        "give --from SOURCE"
    )


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
    if FolderSource(_PACKAGE / "builtin").get(name):
        raise UsageError(f"{name!r} is builtin: it is part of the package and cannot be removed")
    raise NotFoundError(f"no entry {name!r} in the cache{suggestion(name, FolderSource(cache_folder()).names())}")


def remove(name: str) -> Path:
    """Delete an entry from the cache and return the folder it was in; errors as in `cached`, and `StorageError`."""
    folder = cached(name)
    with storage_errors(folder):
        shutil.rmtree(folder)
    verified.forget(folder)
    return folder
