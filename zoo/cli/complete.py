"""What the shell offers for a word that is being typed: names of entries, of recipes, sources.

Functions for click's `shell_complete=`. They look at this machine only, import nothing slow, and offer nothing rather
than fail: an error would be printed into the line that is being typed.
"""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from zoo.errors import MenagerieError

__all__ = ["cached_names", "entry_names", "member_names", "recipe_names", "source_names"]


def entry_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the entries of the local sources, or of the one that `--from` names, that are not given yet."""
    return _offer(lambda: _names(ctx.params.get("source")), incomplete, ctx.params.get(param.name or ""))


def cached_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the entries of the cache, which can be deleted."""

    def found() -> list[str]:
        from zoo import store

        return store.names([store.FolderSource(store.cache_folder())])

    return _offer(found, incomplete, ctx.params.get(param.name or ""))


def member_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer entries for the last of a list with commas, `A,B=1.2,C`."""
    del ctx, param
    before, comma, last = incomplete.rpartition(",")
    given = [word.partition("=")[0] for word in before.split(",")]
    return [CompletionItem(before + comma + item.value) for item in _offer(lambda: _names(None), last, given)]


def recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the recipes of the package; the shell's own completion adds files."""
    del ctx, param

    def found() -> Iterable[str]:
        from training import recipe_file

        return recipe_file.recipe_names()

    names = _offer(found, incomplete)
    return names or [CompletionItem(incomplete, type="file")]


def source_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer folders; of other sources, how they begin."""
    del ctx, param
    schemes = [scheme for scheme in ("hf://", "s3://", "https://") if incomplete and scheme.startswith(incomplete)]
    return [*map(CompletionItem, schemes), CompletionItem(incomplete, type="dir")]


def _names(source: str | None) -> list[str]:
    """Return the names in the local sources, or in the folder that `--from` names."""
    from zoo import store

    return store.names([s for s in store.asked(source) if isinstance(s, store.FolderSource)])


def _offer(find: Callable[[], Iterable[str]], incomplete: str, given: object = ()) -> list[CompletionItem]:
    """Return the names that begin as the word does and were not given before."""
    before = set(given) if isinstance(given, list | tuple) else set()
    try:
        return [CompletionItem(name) for name in find() if name.startswith(incomplete) and name not in before]
    except (MenagerieError, OSError):
        return []
