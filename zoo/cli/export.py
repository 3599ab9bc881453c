"""`zoo export`: one network as an ONNX graph."""

from pathlib import Path
from typing import Any

import click

from zoo.cli.complete import entry_names
from zoo.cli.exporting import check_options, export_options, run_export
from zoo.cli.types import PATH, TEXT

__all__ = ["command"]


@click.command("export")
@click.argument("name", type=TEXT, shell_complete=entry_names)
@click.option("-o", "--output", type=PATH, help="The graph to write [default: NAME.onnx].")
@click.option("--tta", "views", type=TEXT, default="none", help="View set inside the graph [default: none].")
@export_options
def command(*, name: str, output: Path | None, views: str, **options: Any) -> None:  # noqa: ANN401  # export_options'
    """Export one network as an ONNX graph: uint8 images [batch, H, W, 3] in, probabilities out.

    It is the graph of an ensemble of one; `ensemble export --help` says what is checked before it is written.

    \b
      zoo export fastnet-seed1
      zoo export fastnet-seed1 --precision int8 --tta flip -o fastnet.onnx
    """
    from ensemble.lockfile import Committee, lockfile_table
    from ensemble.members import Member
    from tta import view_set
    from zoo import store

    check_options(options)
    view_set(views)
    entry = store.find(name)
    committee = Committee((Member(entry.name, entry, 1.0),), views)
    run_export(committee, lockfile_table(committee), output or Path(f"{entry.name}.onnx"), **options)
