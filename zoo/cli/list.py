"""`zoo list`: what there is."""

import json
from pathlib import Path
from typing import Any

import click

from zoo import store
from zoo.entry import Entry
from zoo.errors import MenagerieError
from zoo.names import match

__all__ = ["command"]


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--from", "source", help="Only this source folder [default: all sources].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of a table.")
def command(*, pattern: str, source: str | None, as_json: bool) -> None:
    """List entries with accuracy, size and where they lie; an entry that cannot be read is listed as damaged.

    \b
      zoo list
      zoo list 'fastnet-*' --json
    """
    asked = store.asked(source)
    known = store.names(asked)
    rows = [_row(store.find(name, asked)) for name in match(pattern, known)] if known else []
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo(f"no entries in {', '.join(s.label for s in asked)}", err=True)
        return
    _print_table(rows)


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "source": entry.source, "folder": str(Path(entry.folder))}
    try:
        card = entry.card
        return row | {
            "architecture": card.architecture,
            "dataset": card.dataset,
            "accuracy": card.accuracy(),
            "parameters": card.parameters,
            "multiply_adds": card.multiply_adds,
            "bytes": entry.size,
        }
    except (MenagerieError, OSError) as error:
        return row | {"damaged": str(error)}


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("name", "architecture", "dataset", "test, flip", "parameters", "multiply-adds", "size", "source"):
        table.add_column(
            name, justify="right" if name in {"test, flip", "parameters", "multiply-adds", "size"} else "left"
        )
    for row in rows:
        if "damaged" in row:
            table.add_row(row["name"], "damaged: see `zoo verify`", "", "", "", "", "", row["source"])
            continue
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %"
        table.add_row(
            row["name"],
            row["architecture"],
            row["dataset"],
            accuracy,
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            f"{row['bytes'] / 1e6:.1f} MB",
            row["source"],
        )
    console = Console()
    # Paths and cards may hold square brackets and colons: nothing in them is markup.
    plain = Console(width=console.width if console.is_terminal else 120, markup=False, emoji=False)
    plain.print(table)
