"""`zoo pull`: bring an entry into the cache."""

import click

from zoo import store
from zoo.errors import NotFoundError

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
    try:
        entries = {entry.name: entry for pattern in patterns for entry in store.resolve(pattern, asked)}
    except NotFoundError as error:
        raise NotFoundError(f"{error}{_how_to_train(patterns)}") from error
    for entry in entries.values():
        if dry_run:
            click.echo(f"{entry.name}: {entry.size / 1e6:.1f} MB from {entry.source}")
            continue
        pulled, copied = store.pull(entry, replace=replace)
        if not quiet:
            click.echo(f"{entry.name}: {'copied to' if copied else 'verified in'} {pulled.folder}")


def _how_to_train(patterns: tuple[str, ...]) -> str:
    """Return how to train the first of these names that a recipe could make, or an empty string."""
    from training.recipe import recipe_names

    for name in patterns:
        recipe, _, seed = name.rpartition("-seed")
        if recipe in recipe_names() and seed.isdigit():
            return f"; to train it: zoo train {recipe} --seed {seed} --data DIR"
    return ""
