"""`ensemble export`: an ensemble as one ONNX graph."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import committee_options, read_committee
from zoo.cli.exporting import check_options, export_options, run_export
from zoo.cli.group import complain
from zoo.cli.types import PATH, TEXT
from zoo.errors import UsageError
from zoo.names import is_name

if TYPE_CHECKING:
    from ensemble.lockfile import Committee

__all__ = ["command"]

_ENSEMBLE = "ensemble"
_LONGEST = 64  # characters of a name that is made up


@click.command("export")
@click.argument("file", metavar="[ENSEMBLE.json]", type=PATH, required=False)
@committee_options
@click.option("-o", "--output", type=PATH, help="The graph to write, model.onnx; for a cascade, a folder.")
@click.option("--triton", type=PATH, help="Write a Triton model repository into this folder, with the graph in it.")
@click.option("--name", type=TEXT, help="Of the model in the repository [default: after the lockfile].")
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

    --triton writes DIR/NAME with config.pbtxt, labels.txt and the graph as version 1, or the next one of a model that
    is there and has the same interface. --device says what serves it, too [default: CUDA, or the CPU where there is no
    GPU]; batching and the number of instances may be changed in config.pbtxt, which later versions leave as it is.

    \b
      ensemble export ensemble.json -o model.onnx
      ensemble export ensemble.json -o int8.onnx --precision int8 --member-probs
      ensemble export --members 'fastnet-seed*' --tta flip -o model.onnx --precision fp16
      ensemble export cascade.json -o cascade/
      ensemble export ensemble.json --triton repository/ --precision fp16 --device tensorrt
    """
    if (output is None) == (triton is None):
        raise UsageError("give -o model.onnx, or --triton DIR for a model repository")
    if file is not None and lockfile is not None:
        raise UsageError("give the ensemble.json once")
    if name is not None and triton is None:
        raise UsageError("--name is of the model in a Triton repository: give --triton DIR, too")
    check_options(options)
    committee = read_committee(members, file or lockfile, views, merge)
    table = _lockfile(committee, file or lockfile)
    if output is not None:
        run_export(committee, table, output, **options)
    elif triton is not None:
        _to_triton(committee, table, triton, name or _called(committee, file or lockfile), **options)


def _called(committee: "Committee", path: Path | None) -> str:
    """Return what a model is called unless somebody says so: as its lockfile, or its only member."""
    if path is None:
        return committee.members[0].name if len(committee.members) == 1 else _ENSEMBLE
    return _valid(path.stem)


def _valid(text: str) -> str:
    """Return a text as a name: in lower case, and with a - for whatever else names do not have."""
    if is_name(text):
        return text
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:_LONGEST].strip("._-") or _ENSEMBLE


def _to_triton(committee: "Committee", table: dict[str, Any], repository: Path, name: str, **options: Any) -> None:  # noqa: ANN401
    """Export a committee into a Triton model repository, as the next version of a model."""
    if committee.cascade:
        raise UsageError(
            "--triton takes one graph, and a cascade is one a stage: export the ensemble.json that it was fitted to, "
            "or its stage graphs with -o DIR, which `ensemble serve` runs"
        )
    from export.triton import CONFIG, Service, new_version
    from zoo.entry import Entry

    cards = [member.origin.card for member in committee.members if isinstance(member.origin, Entry)]
    service = Service(
        name,
        tuple(table["classes"]),
        cards[0].input_size,
        options["precision"],
        len(cards) if options["member_probs"] else None,
        options["device"],
    )
    with new_version(repository, service) as place:
        run_export(committee, table, place.graph, **options)
    if place.kept and not options["quiet"]:
        complain(f"note: {place.graph.parent.parent / CONFIG} stays as it was")
    if not options["as_json"]:
        click.echo(f"version {place.version} of {name!r}: tritonserver --model-repository {repository}")


def _lockfile(committee: Any, path: Path | None) -> dict[str, Any]:  # noqa: ANN401
    """Return the lockfile of a committee: as it is in its file, if it is from one."""
    from ensemble.lockfile import lockfile_table

    if path is None:
        return lockfile_table(committee)
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    return table
