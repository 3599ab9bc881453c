"""`zoo rm`: delete an entry from the cache."""

import click

from zoo import store
from zoo.cli.complete import cached_names

__all__ = ["command"]


@click.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=cached_names)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, names: tuple[str, ...], dry_run: bool, quiet: bool) -> None:
    """Delete entries from the cache; builtin entries and other sources are never touched.

    \b
      zoo rm mine-seed3
      zoo rm 'mine-*' --dry-run
    """
    folders = {
        name: store.cached(name) for text in names for name in store.cached_names(text)
    }  # all or none: a misspelled name deletes nothing
    for name, folder in folders.items():
        if not dry_run:
            store.remove(name)
        if not quiet:
            click.echo(f"{'would delete' if dry_run else 'deleted'} {folder}")
