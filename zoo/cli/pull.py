"""`zoo pull`: bring an entry into the cache."""

from typing import TYPE_CHECKING

import click

from zoo import store
from zoo.errors import NotFoundError

if TYPE_CHECKING:
    from zoo.entry import Entry

__all__ = ["command"]


@click.command("pull")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True)
@click.option("--from", "source", help="Source folder [default: all sources].")
@click.option("--replace", is_flag=True, help="Copy even if the cache has an entry of this name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, patterns: tuple[str, ...], source: str | None, replace: bool, dry_run: bool, quiet: bool) -> None:
    """Copy entries into the cache; every file's sha256 is checked, and nothing is left half-copied.

    \b
      zoo pull pyramid272-seed1
      zoo pull 'fastnet-*' --from /mnt/team-zoo
    """
    asked = store.asked(source, afresh=replace)
    entries: dict[str, Entry] = {}
    for pattern in patterns:
        try:
            entries |= {entry.name: entry for entry in store.resolve(pattern, asked)}
        except NotFoundError as error:
            raise NotFoundError(f"{error}{_how_to_train(pattern)}") from error
    for entry in entries.values():
        there = store.check_pull(entry, replace=replace)
        if dry_run:
            what = "there already" if there else f"would copy {entry.size / 1e6:.1f} MB"
            click.echo(f"{entry.name}: {what} ({entry.source}: {entry.folder})")
            continue
        pulled = store.pull(entry, replace=replace)
        if not quiet:
            click.echo(f"{entry.name}: {'verified in' if there else 'copied to'} {pulled.folder}")


def _how_to_train(name: str) -> str:
    """Return how to train an entry of this name, if a recipe could make one, or an empty string."""
    from training.recipe_file import recipe_names
    from zoo.data import DATASETS

    recipe, _, seed = name.rpartition("-seed")
    dataset = next((d for d in DATASETS if recipe.endswith(f"-{d}")), "")
    recipe, option = recipe.removesuffix(f"-{dataset}"), f" --dataset {dataset}" if dataset else ""
    if recipe in recipe_names() and seed.isdigit():
        return f"; to train it: zoo train {recipe} --seed {seed}{option} --data DIR"
    return ""
