"""`ensemble export`: an ensemble as one ONNX graph."""

import json
from pathlib import Path
from typing import Any

import click

from ensemble.cli.options import committee_options, read_committee
from zoo.cli.exporting import export_options, run_export
from zoo.cli.types import PATH
from zoo.errors import UsageError

__all__ = ["command"]


@click.command("export")
@click.argument("file", metavar="[ENSEMBLE.json]", type=PATH, required=False)
@committee_options
@click.option("-o", "--output", type=PATH, help="The graph to write, model.onnx; for a cascade, a folder.")
@click.option("--triton", type=PATH, help="Write a Triton model repository into this folder, with the graph in it.")
@click.option("--name", help="Of the model in the repository [default: the lockfile's name].")
@export_options
def command(
    *,
    file: Path | None,
    members: str | None,
    lockfile: Path | None,
    views: str | None,
    merge: str | None,
    output: Path | None,
    triton: Path | None,
    name: str | None,
    **options: Any,  # noqa: ANN401  # those of `export_options`
) -> None:
    """Export an ensemble as one ONNX graph.

    Normalisation, views, members, weights and temperatures are inside: uint8 images [batch, H, W, 3] in, probabilities
    out, for any batch. A graph is written if it answers as PyTorch does over the whole test split: in fp32 with the
    same class on every image and probabilities within 0.0001, in fp16 with the same class on 99.9 %, in int8 with at
    most 0.2 points less accuracy. int8 is calibrated on training images (512 of CIFAR-10 ship), and layers that change
    the answers too much stay in fp32. A cascade becomes a folder with a graph a stage.

    \b
      ensemble export ensemble.json -o model.onnx
      ensemble export ensemble.json -o int8.onnx --precision int8 --member-probs
      ensemble export --members 'fastnet-seed*' --tta flip -o model.onnx --precision fp16
      ensemble export cascade.json -o cascade/
    """
    if (output is None) == (triton is None):
        raise UsageError("give -o model.onnx, or --triton DIR for a model repository")
    if file is not None and lockfile is not None:
        raise UsageError("give the ensemble.json once")
    committee = read_committee(members, file or lockfile, views, merge)
    table = _lockfile(committee, file or lockfile)
    if output is not None:
        run_export(committee, table, output, **options)


def _lockfile(committee: Any, path: Path | None) -> dict[str, Any]:  # noqa: ANN401
    """Return the lockfile of a committee: as it is in its file, if it is from one."""
    from ensemble.lockfile import lockfile_text

    text = path.read_text(encoding="utf-8-sig") if path else lockfile_text(committee, fitted_on=None, metrics={})
    table: dict[str, Any] = json.loads(text)
    return table
