"""`zoo list`: what there is."""

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from zoo import listing, store
from zoo.cli.complete import source_names
from zoo.cli.group import complain
from zoo.cli.table import Column, layout
from zoo.cli.types import TEXT
from zoo.entry import Entry
from zoo.errors import MenagerieError
from zoo.listing import Listed, Row
from zoo.names import match

if TYPE_CHECKING:
    from zoo.sources.remote import RemoteEntry

__all__ = ["command", "row_of"]

_STATES = {"whole": "", "predictions only": "no weights", "damaged": "damaged"}


@click.command("list")
@click.argument("pattern", default="*", type=TEXT)
@click.option(
    "--from",
    "source",
    type=TEXT,
    help="Only this folder, hf://org/repo[@rev][/sub], s3://... or https://... [default: all sources].",
    shell_complete=source_names,
)
@click.option("--revision", type=TEXT, help="With --from hf://...: branch, tag or commit.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of a table.")
def command(*, pattern: str, source: str | None, revision: str | None, as_json: bool) -> int:
    """List entries with accuracy (test split, flip), size and where they lie.

    A state is shown where it is not the usual one: `no weights` if only the predictions were pulled, or `damaged`.

    \b
      zoo list
      zoo list 'fastnet-*' --json
      zoo list --from hf://team/zoo
    """
    asked = store.asked(source, revision=revision)
    found, failed = _look(asked)
    rows = [row_of(found[name]) for name in match(pattern, sorted(found))] if found else []
    if as_json:
        click.echo(json.dumps([row.table() for row in rows], indent=1))
    elif rows:
        _print_table(rows)
    elif not failed:
        complain(f"no entries in {', '.join(s.label for s in asked)}")
    return 1 if failed else 0


def row_of(found: "Entry | RemoteEntry") -> Row:
    """Return the row of an entry, wherever it is."""
    return listing.row(found) if isinstance(found, Entry) else found.row()


def _look(asked: Sequence[store.Source]) -> "tuple[dict[str, Entry | RemoteEntry], bool]":
    """Return the entries by name, of the first source that has each, and whether a source failed.

    One of several that fails is said, and hides none of the others' entries.
    """
    found: dict[str, Entry | RemoteEntry] = {}
    failed = False
    for source in asked:
        try:
            new = {name: source.get(name) for name in source.names() if name not in found}
        except MenagerieError as error:
            if len(asked) == 1:
                raise
            failed = True
            complain(f"error: {error}")
            continue
        found |= {name: entry for name, entry in new.items() if entry is not None}
    return found, failed


def _print_table(rows: list[Row]) -> None:
    known = [row.listed or Listed(row.name, "", "", None, 0, 0, 0) for row in rows]
    columns = [
        Column("name", [row.name for row in rows]),
        Column("architecture", [one.architecture for one in known], short="arch", spare=4),
        Column("dataset", [one.dataset for one in known], spare=1),
        Column(
            "accuracy", ["" if one.accuracy is None else f"{100 * one.accuracy:.2f} %" for one in known], right=True
        ),
        Column("parameters", [_scaled(one.parameters, 1e6, 2, "M") for one in known], True, "params", 2),
        Column("multiply-adds", [_scaled(one.multiply_adds, 1e9, 2, "G") for one in known], True, "mult-adds", 3),
        Column("size", [_scaled(one.bytes, 1e6, 1, "MB") for one in known], right=True),
        Column("state", [_STATES[row.state] for row in rows]),
        Column("where", [row.source for row in rows], cut=True),
    ]
    columns = [column for column in columns if column.title != "state" or any(column.cells)]
    lines, missing = layout(columns, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    click.secho(lines[0], bold=True)
    for line in lines[1:]:
        click.echo(line)
    if missing:
        complain(f"left out for want of room: {', '.join(missing)} (a wider window or --json has all)")
    damaged = [row.name for row in rows if row.state == "damaged"]
    if damaged:
        complain(f"damaged: {', '.join(damaged)} (`zoo verify NAME` says how)")


def _scaled(value: int, unit: float, digits: int, name: str) -> str:
    """Return a count in a unit; nothing of what is not known."""
    return f"{value / unit:,.{digits}f} {name}" if value else ""
