"""`zoo info`: the card of an entry."""

import json
from dataclasses import asdict

import click

from zoo import store
from zoo.model_card import model_card

__all__ = ["command"]


@click.command("info")
@click.argument("name")
@click.option("--from", "source", help="Source folder [default: all sources].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of the model card.")
def command(*, name: str, source: str | None, as_json: bool) -> None:
    """Show an entry's card: architecture, training, accuracy, where it lies.

    \b
      zoo info fastnet-seed1
    """
    entry = store.find(name, store.asked(source))
    card = entry.card
    if as_json:
        click.echo(json.dumps({**asdict(card), "source": entry.source, "folder": str(entry.folder)}, indent=1))
        return
    body = model_card(card).split("---\n", 2)[2]
    click.echo(body + f"\nin {entry.source}: {entry.folder} ({entry.size / 1e6:.1f} MB)")
