"""`zoo pull`: bring an entry into the cache."""

import click

from zoo import store
from zoo.names import is_pattern, match

__all__ = ["command"]


@click.command("pull")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True)
@click.option("--from", "source", help="Source folder [default: all sources].")
@click.option("--replace", is_flag=True, help="Copy even if the cache has an entry of this name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, patterns: tuple[str, ...], source: str | None, replace: bool, dry_run: bool, quiet: bool) -> None:
    r"""Copy entries into the cache; every file's sha256 is checked, and nothing is left half-copied.

    \b
      zoo pull pyramid272-seed1
      zoo pull 'fastnet-*' --from /mnt/team-zoo
    """
    chosen = store.open_source(source) if source else None
    asked = [chosen] if chosen else store.sources()
    known = sorted({name for s in asked for name in s.names()})
    for pattern in patterns:
        for name in match(pattern, known) if is_pattern(pattern) else [pattern]:
            if dry_run:
                entry = store.find(name, asked)
                click.echo(f"{name}: {entry.size / 1e6:.1f} MB from {entry.source}")
                continue
            entry, copied = store.pull(name, chosen, replace=replace)
            if not quiet:
                click.echo(f"{name}: {'copied to' if copied else 'verified in'} {entry.folder}")
