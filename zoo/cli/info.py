"""`zoo info`: the card of an entry."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo import store
from zoo.cli.complete import entry_names, source_names
from zoo.cli.group import complain
from zoo.cli.list import row_of
from zoo.cli.table import printable
from zoo.cli.types import TEXT
from zoo.errors import CorruptError, NotFoundError, UsageError
from zoo.model_card import card_text

if TYPE_CHECKING:
    from zoo.entry import Entry
    from zoo.sources.remote import RemoteEntry

__all__ = ["command"]


@click.command("info")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True, type=TEXT, shell_complete=entry_names)
@click.option(
    "--from",
    "source",
    type=TEXT,
    help="Folder, hf://org/repo[@rev][/sub], s3://... or https://... [default: all sources].",
    shell_complete=source_names,
)
@click.option("--revision", type=TEXT, help="With --from hf://...: branch, tag or commit.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of the model card: a list, one an entry.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the training curve and which classes are taken for which others (test split).",
)
def command(
    *, patterns: tuple[str, ...], source: str | None, revision: str | None, as_json: bool, plot: Path | None
) -> None:
    """Show the cards of entries: architecture, training, accuracy, where they lie.

    \b
      zoo info fastnet-seed1
      zoo info 'fastnet-*' --json
      zoo info fastnet-seed1 --plot fastnet-seed1.png
    """
    asked = store.asked(source, revision=revision)
    entries = {entry.name: entry for pattern in patterns for entry in store.look_up(pattern, asked)}
    if plot is not None:
        if len(entries) != 1 or plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}: give one NAME, and a file that ends in .png")
        _draw(store.find(next(iter(entries)), asked), plot)
    cards = [_described(entry) for entry in entries.values()]
    if as_json:
        click.echo(json.dumps([about for _, about in cards], indent=1))
    else:
        for text, _ in cards:
            click.echo(text)
    if plot is not None:
        complain(f"drawn: {plot}")


def _described(found: "Entry | RemoteEntry") -> tuple[str, dict[str, object]]:
    """Return the card of an entry and where it is, as text and for JSON; `CorruptError` if it is damaged."""
    row = row_of(found)
    if row.listed is None:
        raise CorruptError(row.problem)
    state = "" if row.state == "whole" else f", {row.state}"
    where = f"in {row.source}: {row.where} ({row.listed.bytes / 1e6:.1f} MB{state})"
    about = {**asdict(found.card), "source": row.source, "folder": row.where, "state": row.state}
    return printable(f"{card_text(found.card)}\n{where}\n"), about


def _draw(entry: "Entry", path: Path) -> None:
    from zoo.cli.plot import confusion, draw_entry
    from zoo.metrics import METRICS, decode_metrics

    stored = entry.predictions().splits.get("test")
    if stored is None:
        raise NotFoundError(f"{entry.name} has no stored predictions on the test split, so there is nothing to draw")
    rows = []
    if METRICS in entry.sums:
        rows = decode_metrics(entry.read(METRICS), str(entry.folder / METRICS))
    card, counts = entry.card, confusion(stored)
    if len(counts) != len(card.classes):
        raise CorruptError(f"{entry.folder} has logits of {len(counts)} classes, and its card has {len(card.classes)}")
    draw_entry(path, f"{card.name}: {card.architecture} on {card.dataset}", counts, card.classes, rows)
