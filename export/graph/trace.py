"""Tracing a module into an ONNX graph whose nodes are named after the layers they come from."""

import ast
import itertools
from collections.abc import Sequence

import onnx
import torch
from torch import nn

from export.devices import LARGEST_BATCH
from zoo.errors import DataError

__all__ = ["BATCH", "IMAGES", "trace"]

IMAGES, BATCH = "images", "batch"
"""Names of the input, and of its first dimension."""

_SCOPES = "pkg.torch.onnx.name_scopes"


@torch.inference_mode()
def trace(
    module: nn.Module, image: tuple[int, int], outputs: Sequence[str], members: Sequence[str], opset: int
) -> onnx.ModelProto:
    """Return the graph of a module.

    Args:
        module: uint8 images `[N, H, W, 3]` -> outputs with N rows; its `committee` has the networks in `nets`.
        image: (H, W) of the images.
        outputs: their names.
        members: names of the networks, by which nodes and weights are called: `fastnet-seed1/groups.0.conv1`.
        opset: version of ONNX's own operators, from 18.

    Raises:
        DataError: PyTorch's exporter cannot express a network, or fixes the batch.
    """
    example = torch.zeros((3, *image, 3), dtype=torch.uint8)
    batch = torch.export.Dim(BATCH, min=1, max=LARGEST_BATCH)
    try:
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[IMAGES],
            output_names=list(outputs),
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # whatever its passes raise
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"PyTorch cannot export this ensemble: {type(error).__name__}: {reason}") from error
    if program is None:
        raise DataError("PyTorch's exporter gave no graph")
    model: onnx.ModelProto = program.model_proto
    _check_batch(model, opset)
    _rename(model, members)
    return model


def _check_batch(model: onnx.ModelProto, opset: int) -> None:
    """Raise `DataError` unless input and outputs have a dynamic batch, and the graph the version asked for."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH or any(dim.dim_param for dim in list(dims)[1:]):
            said = [dim.dim_param or dim.dim_value for dim in dims]
            raise DataError(f"the exported graph has {value.name} {said}: its batch is not the one dynamic dimension")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions != {"": opset}:
        raise DataError(f"the exported graph needs the operators {versions}, not opset {opset}")


def _rename(model: onnx.ModelProto, members: Sequence[str]) -> None:
    """Call nodes, weights and what flows between them after members and layers; strip what else the exporter notes.

    Its notes have paths of source files, so that the same input would not give the same bytes.
    """
    counts: dict[str, itertools.count[int]] = {}
    names: dict[str, str] = {}

    def unique(name: str) -> str:
        number = next(counts.setdefault(name, itertools.count(1)))
        return name if number == 1 else f"{name}_{number}"

    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for tensor in model.graph.initializer:
        names[tensor.name] = unique(_called(tensor.name, members))
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))
        layer = _called(scopes[-2], members) if len(scopes) > 1 and scopes[-2] else ""
        node.name = unique(f"{layer}/{node.op_type}" if layer else node.op_type)
        for output in node.output:
            names[output] = output if output in kept else unique(f"{node.name}:out")
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in model.graph.initializer:
        tensor.name, tensor.doc_string = names[tensor.name], ""
        del tensor.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.value_info[:]  # of the old names; whoever needs shapes infers them
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.name, model.doc_string, model.graph.doc_string = "menagerie", "", ""


def _called(path: str, members: Sequence[str]) -> str:
    """Return what a module or weight is called: `committee.nets.0.head.weight` -> `fastnet-seed1/head.weight`."""
    parts = path.split(".")
    if parts[:2] == ["committee", "nets"] and len(parts) > 2 and parts[2].isdigit():  # noqa: PLR2004
        return "/".join([members[int(parts[2])], ".".join(parts[3:])])
    return ".".join(parts[1:] if parts[0] == "committee" else parts)
