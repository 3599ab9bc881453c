"""`zoo rm`: delete an entry from the cache."""

import json

import click

from zoo import store
from zoo.cli.complete import cached_names
from zoo.cli.types import TEXT

__all__ = ["command"]


@click.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=TEXT, shell_complete=cached_names)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: a list of name, folder and state.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, names: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Delete entries from the cache; builtin entries and other sources are never touched.

    With --json, the state of each is `deleted` or `would delete`.

    \b
      zoo rm mine-seed3
      zoo rm 'mine-*' --dry-run
    """
    folders = {
        name: store.cached(name) for text in names for name in store.cached_names(text)
    }  # all or none: a misspelled name deletes nothing
    state = "would delete" if dry_run else "deleted"
    done: list[dict[str, str]] = []
    try:
        for name, folder in folders.items():
            if not dry_run:
                store.remove(name)
            done.append({"name": name, "folder": str(folder), "state": state})
            if not quiet and not as_json:
                click.echo(f"{state} {folder}")
    finally:
        if as_json:  # what is gone is said, also where the disk refused the rest
            click.echo(json.dumps(done, indent=1))
