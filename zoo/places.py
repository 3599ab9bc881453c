"""The places that entries are looked for in: builtin ones, the cache, a checkout's `checkpoints/`, `ZOO_SOURCE`."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from zoo.entry import Entry
from zoo.errors import NotFoundError, UsageError
from zoo.home import cache_folder
from zoo.pull import recover
from zoo.sources.folder import FolderSource
from zoo.sources.open import is_remote, open_transport
from zoo.sources.ranges import shown
from zoo.sources.remote import RemoteEntry, RemoteSource

__all__ = ["AbsentSource", "Source", "asked", "builtin", "is_cache", "local", "named", "open_source", "sources"]

_PACKAGE = Path(__file__).parent
_log = logging.getLogger(__name__)


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
    if not text.strip():
        raise UsageError("a source is a folder, hf://, s3:// or https://, not an empty word")
    if is_remote(text):
        transport = open_transport(text, revision)
        return RemoteSource(transport.label, lambda: transport)
    if revision is not None:
        raise UsageError(f"--revision {revision}: {text!r} is a folder, which has no revisions")
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"source {text!r} is not a folder")
    return FolderSource(folder)


class AbsentSource:
    """A folder of `ZOO_SOURCE` that is not there, a disk that is not mounted say: whoever asks it is told.

    Args:
        label: the folder.
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def names(self) -> list[str]:
        """Raise `NotFoundError`."""
        raise NotFoundError(f"source {self.label!r} is not a folder")

    def get(self, name: str) -> Entry | None:
        """Raise `NotFoundError`."""
        raise NotFoundError(f"source {self.label!r} is not a folder, so nobody knows if it has {name!r}")


def builtin() -> FolderSource:
    """Return the source of the entries that ship in the package."""
    return FolderSource(_PACKAGE / "builtin", "builtin")


def sources() -> list[Source]:
    """Return the sources in the order they are asked; those of `ZOO_SOURCE` fail when they are asked, not before."""
    recover()
    cache = FolderSource(cache_folder(), "cache", own=True)
    found: list[Source] = [builtin(), cache]
    checkout = _PACKAGE.parent / "checkpoints"
    if checkout.is_dir():
        found.append(FolderSource(checkout, "checkpoints"))
    return found + [named(text.strip()) for text in os.environ.get("ZOO_SOURCE", "").split(",") if text.strip()]


def named(text: str) -> Source:
    """Return the source of this name as `sources` does: nothing is opened, and nothing fails yet."""
    if is_remote(text):
        return RemoteSource(shown(text), partial(open_transport, text))
    folder = Path(text).expanduser()
    return FolderSource(folder) if folder.is_dir() else AbsentSource(text)


def asked(source: str | None, *, revision: str | None = None, afresh: bool = False) -> list[Source]:
    """Return the one source that `--from` names, or all of them; errors as in `open_source`.

    Args:
        source: the value of `--from`.
        revision: the value of `--revision`, which goes with it.
        afresh: leave the cache out, to replace what it has (which may be damaged).
    """
    if source is not None:
        return [open_source(source, revision)]
    if revision is not None:
        raise UsageError("--revision goes with --from")
    return [s for s in sources() if not (afresh and is_cache(s))]


def is_cache(source: Source) -> bool:
    """Say whether a source is the cache."""
    return isinstance(source, FolderSource) and source.folder == cache_folder()


def local(among: Sequence[Source]) -> list[Source]:
    """Return those of some sources that are folders; one that should be and is not is warned of.

    Raises:
        UsageError: there is none among them.
    """
    folders = [source for source in among if isinstance(source, FolderSource)]
    for source in among:
        if isinstance(source, AbsentSource):
            _log.warning("source %r is not a folder; left out", source.label)
    if not folders:
        raise UsageError(f"{among[0].label} is not on this machine: `zoo pull` checks what it brings")
    return [*folders]
