"""What `ensemble export` and `zoo export` share: their options, the work, and what they print of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zoo.cli.group import complain
from zoo.cli.types import PATH, TEXT
from zoo.errors import UsageError

if TYPE_CHECKING:
    from ensemble.lockfile import Committee
    from export.pipeline import Exported

__all__ = ["check_options", "export_options", "run_export"]

_F = TypeVar("_F", bound=Callable[..., Any])

_PRECISIONS = ("fp32", "fp16", "int8")  # as `export.metadata.PRECISIONS`, which a test holds
_IMAGES = 512  # as `zoo.data.calibration.SHIPPED_IMAGES`, likewise


def export_options(command: _F) -> _F:
    """Add the options of an export to a command."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks on stderr."),
        click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of lines."),
        click.option("--allow-cpu", is_flag=True, help="Let the gate run on the CPU where the device cannot."),
        click.option("--device", type=TEXT, help="Of the gate: cpu, cuda, tensorrt [default: cuda if there is a GPU]."),
        click.option("--no-gate", is_flag=True, help="Write the graph whether or not it answers as PyTorch does."),
        click.option(
            "--images",
            type=click.IntRange(min=1),
            default=_IMAGES,
            show_default=True,
            help="Training images that int8 is calibrated on.",
        ),
        click.option("--data", type=PATH, help="Folder with the dataset [default: what ships; ZOO_DATA]."),
        click.option("--member-probs", is_flag=True, help="A second output: each member's probabilities."),
        click.option("--opset", type=int, help="Version of ONNX's operators [default: 18, for int8 20]."),
        click.option(
            "--precision",
            type=TEXT,
            default="fp32",
            show_default=True,
            help=f"{', '.join(_PRECISIONS)}: of the networks.",
        ),
    ):
        command = option(command)
    return command


def check_options(options: Mapping[str, Any]) -> None:
    """Raise `UsageError` if the running command's options of an export do not go together, or name no device.

    What only the gate reads may be given with --no-gate: that is what is appended to a command that missed it.

    Args:
        options: those of `export_options`.
    """
    from export.devices import check_device

    if options["device"] is not None:
        check_device(options["device"])
    images = click.get_current_context().get_parameter_source("images")
    if images is click.core.ParameterSource.COMMANDLINE and options["precision"] != "int8":
        raise UsageError("--images goes with --precision int8: nothing else is calibrated")


def run_export(
    committee: "Committee",
    lockfile: dict[str, Any],
    path: Path,
    *,
    precision: str,
    opset: int | None,
    member_probs: bool,
    data: Path | None,
    images: int,
    no_gate: bool,
    device: str | None,
    allow_cpu: bool,
    as_json: bool,
    quiet: bool,
) -> "Exported":
    """Export a committee of zoo entries and its lockfile to a path, as the options say; print what was measured.

    Raises:
        MenagerieError: as in `export.pipeline.export`, and in loading the images.
    """
    from ensemble.evaluate import split_source
    from export.pipeline import Measured, Order, check_target, export
    from export.triton import in_version
    from zoo.allocator import keep_freed_memory
    from zoo.cli.progress import Progress
    from zoo.data.calibration import load_calibration

    if precision not in _PRECISIONS:
        raise UsageError(f"--precision {precision!r}; there are {', '.join(_PRECISIONS)}")
    check_target(path, cascade=bool(committee.cascade))
    keep_freed_memory()
    size = _input_size(committee)
    calibration = None
    if precision == "int8":
        calibration = load_calibration(lockfile["dataset"], data, images=images, size=size)
    gate = None
    if not no_gate:
        source = split_source(committee.members, "test", data, size=size)
        gate = Measured(source.dataset, source.name, source.split, device, allow_cpu)
    total = 2 * len(gate.split) if gate else 1
    with Progress(total, "parity gate", "images", quiet=quiet) as bar:
        order = Order(
            committee=committee,
            lockfile=lockfile,
            precision=precision,
            opset=opset,
            member_probs=member_probs,
            calibration=calibration,
            gate=gate,
            tell=bar.note,
            progress=bar.advance,
        )
        done = export(order, path)
    done = replace(done, path=in_version(done.path), files=tuple(map(in_version, done.files)))
    if as_json:
        click.echo(json.dumps(_table(done, precision), indent=1))
    else:
        _print(done, precision)
    if done.parity is None and not quiet:
        complain("note: nothing has shown that the graph answers as PyTorch does (--no-gate)")
    return done


def _input_size(committee: "Committee") -> tuple[int, int] | None:
    """Return (H, W) of the first member that has a card."""
    from zoo.entry import Entry

    return next((m.origin.card.input_size for m in committee.members if isinstance(m.origin, Entry)), None)


def _table(done: "Exported", precision: str) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "files": [str(file) for file in done.files],
        "bytes": done.bytes,
        "precision": precision,
        "opset": done.opset,
        "calibration": [calibration.to_dict() for calibration in done.calibrations],
        "parity": None if done.parity is None else done.parity.to_dict(),
    }


def _print(done: "Exported", precision: str) -> None:
    """Say what was written, for people."""
    for calibration in done.calibrations:
        layers = len(calibration.left_out) + calibration.quantized
        left = f"; left in fp32: {', '.join(calibration.left_out)}" if calibration.left_out else ""
        click.echo(
            f"int8: {calibration.quantized} of {layers} layers, calibrated on {calibration.images:,} training images "
            f"(percentile {calibration.percentile:g}), divergence {calibration.divergence:.1e} nats{left}"
        )
    parity = done.parity
    if parity is not None:
        click.echo(
            f"parity with PyTorch in fp32, {parity.images:,} images of the {parity.split} split ({parity.provider}): "
            f"the same class on {100 * parity.agreement:.2f} %, largest difference of a probability "
            f"{parity.difference:.1e}; {100 * parity.accuracy:.2f} % right, "
            f"PyTorch {100 * parity.expected_accuracy:.2f} %"
        )
        if parity.moved:
            click.echo(f"{parity.moved} images leave the cascade at another stage: they are at its threshold")
    files = f" ({len(done.files)} files)" if len(done.files) > 1 else ""
    click.echo(f"wrote {done.path}{files}: {precision}, opset {done.opset}, {done.bytes / 1e6:.1f} MB")
