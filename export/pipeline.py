"""Exporting an ensemble: traced, rewritten, in the precision asked for, held to PyTorch, and then put in its place."""

import importlib.metadata
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import steps
from ensemble.lockfile import Committee
from ensemble.module import Ensemble
from export.graph.digest import sign
from export.graph.external import is_weights_of, put_in_place
from export.graph.half import to_half
from export.graph.modules import Stage, Whole
from export.graph.pixels import PixelEnsemble
from export.graph.rewrite import crop_unread, expanded_celu, fusible_gelu
from export.graph.save import EXTERNAL_FROM, drop_output, save, stamp
from export.graph.trace import trace
from export.metadata import PRECISIONS, About, metadata_props
from export.parity import LIMITS, Expected, Limits, Parity, compare, expected_answer
from export.quantize import Calibration, quantize
from export.runtime.cascade import stage_files
from export.runtime.open import open_session
from export.runtime.providers import device_of
from zoo.data import Split
from zoo.errors import DataError, UsageError
from zoo.files import new_folder, storage_errors

__all__ = ["OPSETS", "Exported", "GateError", "Measured", "Order", "check_target", "export"]

OPSETS = {"fp32": 18, "fp16": 18, "int8": 20}
"""Precision -> the version of ONNX's operators, unless another is asked for. From 20 on GELU is one, which ONNX Runtime
otherwise does not recognise between integer layers."""

_OLDEST, _NEWEST = 18, 23
_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # controls, what is not UTF-8, and what ends lines
_PACKAGES = ("menagerie", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


class GateError(DataError):
    """The graph does not answer as PyTorch does; nothing was written."""


@dataclass(frozen=True)
class Measured:
    """What the gate measures on.

    Attributes:
        dataset: its name.
        name: of the split.
        split: the images.
        device: of ONNX Runtime [default: cuda if the machine has an NVIDIA GPU, else cpu].
        allow_cpu: as in `Session`.
        limits: what must be kept [default: `LIMITS` of the precision].
    """

    dataset: str
    name: str
    split: Split
    device: str | None = None
    allow_cpu: bool = False
    limits: Limits | None = None


@dataclass(frozen=True)
class Order:
    """What is to be exported, and how.

    Attributes:
        committee: of zoo entries. One with a cascade becomes a folder of stage graphs.
        lockfile: of it, as JSON has it; it is embedded as it is.
        precision: of the networks, one of `PRECISIONS`.
        opset: version of ONNX's operators, 18 to 23 [default: `OPSETS` of the precision].
        member_probs: whether to give each member's probabilities, too.
        calibration: training images, for int8.
        gate: what to hold the graph to PyTorch on; None not to.
        external_from: bytes of weights from which on they are in a file of their own.
        tell: called with a few words before anything slow.
        progress: called with images done by the gate, which sees each twice.
    """

    committee: Committee
    lockfile: dict[str, Any]
    precision: str = "fp32"
    opset: int | None = None
    member_probs: bool = False
    calibration: Split | None = None
    gate: Measured | None = None
    external_from: int = EXTERNAL_FROM
    tell: Callable[[str], None] = field(default=lambda _: None)
    progress: Callable[[int], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the graph, or of the folder of stage graphs.
        files: all of them.
        bytes: that they take.
        opset: version of ONNX's operators.
        parity: what the gate measured; None if it did not run.
        calibrations: of int8 graphs, one a graph.
    """

    path: Path
    files: tuple[Path, ...]
    bytes: int
    opset: int
    parity: Parity | None
    calibrations: tuple[Calibration, ...]


def check_target(path: Path, *, cascade: bool) -> None:
    """Raise `UsageError` if a graph, or the stage graphs of a cascade, cannot be written to a path."""
    if any(unicodedata.category(letter) in _NOT_SHOWN for letter in str(path)):
        raise UsageError(f"-o {str(path)!r} has control characters")
    real = _real(path)
    if cascade:
        if path.suffix == ".onnx" or path.is_file():
            raise UsageError(f"-o {str(path)!r}: a cascade is a graph a stage, so give a folder")
        here = Path.cwd()
        if real in (here, *here.parents):
            raise UsageError(f"-o {str(path)!r} is the folder that this runs in, or above it: give a new folder")
        if real.is_mount():
            raise UsageError(f"-o {str(path)!r} is a mount point, which nothing can replace: give a new folder")
        graphs = [file.name for file in stage_files(path)]
        there = [file.name for file in path.iterdir()] if path.is_dir() else []
        if any(name not in graphs and not any(is_weights_of(name, graph) for graph in graphs) for name in there):
            raise UsageError(f"-o {str(path)!r} has other files than stage graphs: give a new folder")
    elif path.suffix != ".onnx" or path.is_dir():
        raise UsageError(f"-o {str(path)!r} is not the name of a file that ends in .onnx")
    if not real.parent.is_dir():
        raise UsageError(f"-o {str(path)!r} is not in an existing folder")


def _real(path: Path) -> Path:
    """Return where something is written: a link stays a link, and what it points at is replaced."""
    try:
        real = path.resolve()
    except RuntimeError:  # until Python 3.13, of links that lead to themselves
        real = path
    if real.is_symlink():
        raise UsageError(f"-o {str(path)!r} is a link that leads nowhere")
    return real


def export(order: Order, path: Path) -> Exported:
    """Write an ensemble as an ONNX graph, or one with a cascade as a folder of stage graphs; whole or not at all.

    Args:
        order: what, and how.
        path: where; a graph that is there, or stage graphs, are replaced. If it is a link, these are where that points.

    Raises:
        UsageError: precision, opset or path make no sense; and as in `Ensemble`, `Session`.
        GateError: the graph does not keep what it must of PyTorch's answers; `path` is as it was.
        DataError: a network cannot be exported, or not quantized; and as in `Ensemble`.
        StorageError: the disk refuses.
    """
    opset = OPSETS.get(order.precision, _OLDEST) if order.opset is None else order.opset
    if order.precision not in PRECISIONS:
        raise UsageError(f"unknown precision {order.precision!r}; there are {', '.join(PRECISIONS)}")
    if not _OLDEST <= opset <= _NEWEST:
        raise UsageError(f"--opset {opset}: {_OLDEST} to {_NEWEST} are supported")
    if order.precision == "int8" and order.calibration is None:
        raise UsageError("int8 needs training images to calibrate on")
    cascade = bool(order.committee.cascade)
    check_target(path, cascade=cascade)
    if path.is_symlink() or path.name == "..":  # what is made beside it shall be beside the real one
        path = _real(path)
    gate = order.gate
    if gate is not None:
        if not gate.allow_cpu:
            device_of(gate.device)
        if tuple(order.lockfile["classes"]) != gate.split.classes:
            raise DataError(f"the ensemble tells other classes apart than the {gate.name} split of {gate.dataset} has")
    with _place(path, folder=cascade) as work:
        graphs: list[tuple[onnx.ModelProto, Path, About]] = []
        calibrations: list[Calibration] = []
        written: list[Path] = []
        names = [f"stage{n}.onnx" for n in range(1, len(order.committee.cascade) + 1)] if cascade else [path.name]
        whole = PixelEnsemble(Ensemble(order.committee))
        for number, name in enumerate(names, 1):
            order.tell(f"tracing {f'stage {number} of {len(names)}' if cascade else 'the ensemble'}")
            model, calibration = _graph(order, whole, opset, number if cascade else None)
            calibrations += [calibration] if calibration else []
            about = About(
                order.lockfile,
                order.precision,
                opset,
                stage=number if cascade else None,
                calibration=calibration.to_dict() if calibration else None,
                versions=_versions(),
            )
            written += save(model, work / name, external_from=order.external_from)
            stamp(model, work / name, metadata_props(about))
            _check(work / name)
            graphs.append((model, work / name, about))
        parity = None if gate is None else _gate(order, gate, work if cascade else work / path.name)
        for model, file, about in graphs:
            known = About(**{**vars(about), "parity": parity.to_dict() if parity else None})
            stamp(model, file, metadata_props(known))
        size = sum(file.stat().st_size for file in written)
    files = tuple((path if cascade else path.parent) / file.name for file in written)
    return Exported(path, files, size, opset, parity, tuple(calibrations))


def _graph(order: Order, whole: Ensemble, opset: int, stage: int | None) -> tuple[onnx.ModelProto, Calibration | None]:
    """Return the graph of an ensemble, or of a stage of its cascade, and how it was quantized if it was."""
    committee = order.committee
    names = [member.name for member in committee.members]
    module: Stage | Whole
    if stage is not None:
        step = steps(committee.cascade, names, committee.views)[stage - 1]
        module, outputs, own = Stage(whole, step), ["log_probs"], "log_probs"
    else:
        # An int8 graph is calibrated by its members' probabilities, whether they stay in it or not.
        members = order.member_probs or order.precision == "int8"
        module, own = Whole(whole, member_probs=members), "member_probs"
        outputs = ["probs", "member_probs"] if members else ["probs"]
    model = trace(module, whole.input_size, outputs, names, opset)
    fusible_gelu(model)
    crop_unread(model)
    model.producer_name, model.producer_version = "menagerie", _versions().get("menagerie", "")
    calibration = None
    if order.precision == "fp16":
        expanded_celu(model)
        to_half(model)
    elif order.precision == "int8" and order.calibration is not None:
        model, calibration = quantize(model, order.calibration, own, tell=order.tell)
    if stage is None and not order.member_probs and len(model.graph.output) > 1:
        drop_output(model, "member_probs")
    sign(model)
    return model, calibration


def _check(path: Path) -> None:
    """Raise `DataError` unless ONNX's own checker accepts a file."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DataError(f"the exported graph is not sound: {str(error).strip().partition(chr(10))[0]}") from error


def _gate(order: Order, gate: Measured, path: Path) -> Parity:
    """Return how a graph compares with PyTorch; `GateError` if that is not well enough."""
    session = open_session(path, device=gate.device, allow_cpu=gate.allow_cpu)
    order.tell(f"running PyTorch and the graph over the {gate.name} split")
    model = Ensemble(order.committee)
    expected: Expected = expected_answer(
        Cascade(model, order.committee) if order.committee.cascade else model, gate.split.images, order.progress
    )
    parity = compare(
        session,
        expected,
        gate.split,
        gate.limits or LIMITS[order.precision],
        dataset=gate.dataset,
        name=gate.name,
        progress=order.progress,
    )
    if not parity.passed:
        raise GateError(
            f"the {order.precision} graph does not answer as PyTorch does: {'; '.join(parity.misses)} "
            f"({parity.images:,} images); nothing was written (--no-gate writes it all the same)"
        )
    return parity


@contextmanager
def _place(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield an empty folder, whose files take their places when the block ends without an error."""
    if folder:
        with new_folder(path, replace=True) as work:
            yield work
        return
    with storage_errors(path):
        made = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)
    with made as name:
        yield Path(name)
        put_in_place(Path(name) / path.name, path)


def _versions() -> dict[str, str]:
    """Return the versions of what made a graph."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
