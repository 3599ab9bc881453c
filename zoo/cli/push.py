"""`zoo push`: publish entries."""

import json
from typing import TypedDict

import click

from zoo import store
from zoo.cli.complete import entry_names
from zoo.cli.types import TEXT
from zoo.push import Push, plan_push, push

__all__ = ["command"]

_SAME = "there already"


@click.command("push")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True, type=TEXT, shell_complete=entry_names)
@click.option(
    "--to", "target", required=True, type=TEXT, help="Folder, hf://org/repo[@branch][/sub] or s3://bucket[/sub]."
)
@click.option("--from", "source", type=TEXT, help="Source that has them [default: all sources].")
@click.option("--message", help="Of the commit, on the Hub.")
@click.option("--replace", is_flag=True, help="Replace entries of these names in the target.")
@click.option("--dry-run", is_flag=True, help="Only say what would be pushed.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: a list of name, where, bytes and state.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    patterns: tuple[str, ...],
    target: str,
    source: str | None,
    message: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write whole, verified entries to a source, each in the folder of its name, and the source's index.

    An only entry whose name is the last part of the URL goes to the root: its card is then the repository's.
    With --json, the state of each is `pushed`, `there already` or `would push`, and bytes are those that go there.

    \b
      zoo push 'mine-seed*' --to /mnt/team-zoo
      zoo push 'mine-seed*' --to hf://team/zoo
      zoo push mine-seed1 --to hf://team/mine-seed1 --message 'First seed'
    """
    entries = list({e.name: e for p in patterns for e in store.resolve(p, store.asked(source))}.values())
    plan = (
        plan_push(entries, target, replace=replace)
        if dry_run
        else push(entries, target, replace=replace, message=message)
    )
    rows = [_row(name, target, plan, dry_run=dry_run) for name in dict.fromkeys(entry.name for entry in entries)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        if row["state"] == _SAME:
            said = f"{row['name']}: {_SAME}, the same"
        else:
            said = f"{row['name']}: {row['state']} {row['bytes'] / 1e6:.1f} MB to {row['where']}"
        if dry_run or not quiet:
            click.echo(said)


class _Row(TypedDict):
    """What --json has of an entry."""

    name: str
    where: str
    bytes: int
    state: str


def _row(name: str, target: str, plan: Push, *, dry_run: bool) -> _Row:
    """Return what became of an entry, or would."""
    about = plan.index[name]
    where = "/".join(part for part in (target.rstrip("/"), about.path) if part)
    if name in plan.same:
        return _Row(name=name, where=where, bytes=0, state=_SAME)
    return _Row(name=name, where=where, bytes=sum(about.files.values()), state="would push" if dry_run else "pushed")
