"""`zoo info`: the card of an entry."""

import json
from dataclasses import asdict

import click

from zoo import store
from zoo.model_card import model_card

__all__ = ["command"]


@click.command("info")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True)
@click.option("--from", "source", help="Source folder [default: all sources].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of the model card: a list, one an entry.")
def command(*, patterns: tuple[str, ...], source: str | None, as_json: bool) -> None:
    """Show the cards of entries: architecture, training, accuracy, where they lie.

    \b
      zoo info fastnet-seed1
      zoo info 'fastnet-*' --json
    """
    asked = store.asked(source)
    entries = [entry for pattern in patterns for entry in store.resolve(pattern, asked)]
    if as_json:
        cards = [{**asdict(e.card), "source": e.source, "folder": str(e.folder)} for e in entries]
        click.echo(json.dumps(cards, indent=1))
        return
    for entry in entries:
        body = model_card(entry.card).split("---\n", 2)[2]
        click.echo(body + f"\nin {entry.source}: {entry.folder} ({entry.size / 1e6:.1f} MB)\n")
