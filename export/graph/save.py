"""Writing a graph: one file, or, above what a file of its format can hold, one more with the weights beside it."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

from export.graph.external import weights_name
from zoo.files import sha256_file, storage_errors

__all__ = ["EXTERNAL_FROM", "drop_output", "save", "stamp"]

EXTERNAL_FROM = 2_000_000_000
"""Bytes of weights from which on they are in a file of their own: protobuf ends at 2 GiB."""

_SMALL = 1024


def save(model: onnx.ModelProto, path: Path, *, external_from: int = EXTERNAL_FROM) -> list[Path]:
    """Write a graph, and beside it a file with its weights if they are many; the graph then knows that by its name.

    Args:
        model: its weights are moved out of it if they get a file of their own.
        path: where; what is there is written over.
        external_from: see `EXTERNAL_FROM`.

    Returns:
        The files written, the graph first.

    Raises:
        StorageError: the disk refuses.
    """
    with storage_errors(path):
        outside = sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= external_from
        data = _move_out(model, path) if outside else None
        path.write_bytes(model.SerializeToString(deterministic=True))
    return [path] if data is None else [path, data]


def _move_out(model: onnx.ModelProto, path: Path) -> Path | None:
    """Write a model's large weights into a file and leave its name in them; return the file, None if there are none."""
    part = path.with_name(f".{uuid.uuid4().hex}.data")  # its name is known once it is written
    try:
        convert_model_to_external_data(model, location=part.name, size_threshold=_SMALL)
        write_external_data_tensors(model, str(path.parent))
        if not part.exists():
            return None
        data = path.with_name(weights_name(path.name, sha256_file(part)))
        part.chmod(0o644)  # onnx's 0600 would hide it from other users, whose server may read the graph
        part.replace(data)
    finally:
        part.unlink(missing_ok=True)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.name
    return data


def stamp(model: onnx.ModelProto, path: Path, props: Mapping[str, str]) -> None:
    """Give a graph its metadata and write it again; its weights stay where `save` put them.

    Raises:
        StorageError: the disk refuses.
    """
    del model.metadata_props[:]
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)
    with storage_errors(path), path.open("wb") as file:
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())


def drop_output(model: onnx.ModelProto, name: str) -> None:
    """Take an output off a graph, and what only it needs; in place."""
    outputs = [value for value in model.graph.output if value.name != name]
    needed = {value.name for value in outputs}
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.output[:], model.graph.node[:], model.graph.initializer[:]
    model.graph.output.extend(outputs)
    model.graph.node.extend(reversed(nodes))
    model.graph.initializer.extend(weights)
