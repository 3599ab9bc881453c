"""Where entries come from: the builtin ones, the cache, a checkout's `checkpoints/`, and `ZOO_SOURCE`."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from zoo.entry import Entry
from zoo.errors import NotFoundError, UsageError
from zoo.files import SUMS, new_folder, storage_errors
from zoo.names import check_name, is_name, is_pattern, match, suggestion

__all__ = [
    "FolderSource",
    "Source",
    "asked",
    "cache_folder",
    "cached",
    "cached_names",
    "check_new",
    "check_pull",
    "find",
    "home",
    "names",
    "open_source",
    "pull",
    "remove",
    "resolve",
    "sources",
]

_PACKAGE = Path(__file__).parent


class Source(Protocol):
    """A place that has entries. A folder is one; a hub is another."""

    label: str

    def names(self) -> list[str]:
        """Return the names of the entries, sorted."""

    def get(self, name: str) -> Entry | None:
        """Return the entry, or None if the source has no such name."""


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


def home() -> Path:
    """Return the cache's root: `ZOO_HOME`, else `~/.cache/menagerie`."""
    chosen = os.environ.get("ZOO_HOME")
    return Path(chosen) if chosen else Path("~/.cache/menagerie").expanduser()


def cache_folder() -> Path:
    """Return the folder that pulled and self-trained entries lie in."""
    return home() / "entries"


def open_source(text: str) -> Source:
    """Return the source that `text` names.

    Raises:
        UsageError: a kind of source that this version cannot read.
        NotFoundError: the folder does not exist.
    """
    scheme, separator, _ = text.partition("://")
    if separator:
        raise UsageError(f"source {text!r}: this version reads folders only, not {scheme}://")
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


def asked(source: str | None, *, afresh: bool = False) -> list[Source]:
    """Return the one source that `--from` names, or all of them; errors as in `open_source`.

    Args:
        source: the value of `--from`.
        afresh: leave the cache out, to replace what it has (which may be damaged).
    """
    if source:
        return [open_source(source)]
    cache = cache_folder()
    return [s for s in sources() if not (afresh and isinstance(s, FolderSource) and s.folder == cache)]


def names(among: Sequence[Source] | None = None) -> list[str]:
    """Return the names of the entries of some sources, by default all, sorted."""
    return sorted({name for source in (sources() if among is None else among) for name in source.names()})


def find(name: str, among: Sequence[Source] | None = None) -> Entry:
    """Return the entry from the first source that has it.

    Raises:
        UsageError: not a well-formed name.
        NotFoundError: no source has it; the message says which were asked, and what to do.
    """
    check_name(name)
    places = sources() if among is None else among
    for source in places:
        entry = source.get(name)
        if entry is not None:
            return entry
    hint = suggestion(name, [n for source in places for n in source.names()])
    raise NotFoundError(f"no entry {name!r} in {', '.join(s.label for s in places)}{hint}")


def resolve(pattern: str, among: Sequence[Source] | None = None) -> list[Entry]:
    """Return the entries that a name or shell pattern means, sorted by name; errors as in `find` and `match`."""
    if not is_pattern(pattern):
        return [find(pattern, among)]
    return [find(name, among) for name in match(pattern, names(among))]


def check_new(name: str, folder: Path, *, replace: bool = False) -> None:
    """Raise `UsageError` if an entry of this name must not be filed in `folder`."""
    check_name(name)
    if folder == cache_folder() and FolderSource(_PACKAGE / "builtin").get(name):
        raise UsageError(f"{name!r} is builtin and cannot be shadowed")
    if (folder / name).exists() and not replace:
        raise UsageError(f"{name!r} exists already in {folder} (--replace replaces it)")


def check_pull(entry: Entry, *, replace: bool = False) -> bool:
    """Say whether an entry is in the package or the cache already; errors as in `check_new` if it may not be copied."""
    if entry.folder.parent in {_PACKAGE / "builtin", cache_folder()}:
        return True
    check_new(entry.name, cache_folder(), replace=replace)
    return False


def pull(entry: Entry, *, replace: bool = False) -> Entry:
    """Bring an entry into the cache, verified, and return it there.

    Args:
        entry: from any source; a builtin or cached one is only verified.
        replace: whether an entry of this name in the cache may be replaced.

    Raises:
        CorruptError, StorageError, UsageError: nothing is left half-copied.
    """
    entry.verify()
    if check_pull(entry, replace=replace):
        return entry
    target = cache_folder() / entry.name
    with new_folder(target, replace=replace) as folder:
        for file in (SUMS, *entry.sums):
            shutil.copyfile(entry.folder / file, folder / file)
        Entry(entry.name, folder, "cache").verify()
    return Entry(entry.name, target, "cache")


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
    return folder
