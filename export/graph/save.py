"""Writing a graph: one file, or, above what a file of its format can hold, one more with the weights beside it."""

import os
from collections.abc import Mapping
from pathlib import Path

import onnx

from zoo.files import storage_errors

__all__ = ["EXTERNAL_FROM", "drop_output", "save", "stamp"]

EXTERNAL_FROM = 2_000_000_000
"""Bytes of weights from which on they are in a file of their own: protobuf ends at 2 GiB."""

_SMALL = 1024


def save(model: onnx.ModelProto, path: Path, *, external_from: int = EXTERNAL_FROM) -> list[Path]:
    """Write a graph, and beside it `NAME.data` with its weights if they are many; the graph then knows them by name.

    Args:
        model: its weights are moved out of it if they get a file of their own.
        path: where; what is there is written over.
        external_from: see `EXTERNAL_FROM`.

    Returns:
        The files written.

    Raises:
        StorageError: the disk refuses.
    """
    data = path.with_name(f"{path.name}.data")
    with storage_errors(path):
        if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < external_from:
            path.write_bytes(model.SerializeToString(deterministic=True))
            return [path]
        data.unlink(missing_ok=True)  # or it would be appended to
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=_SMALL,
        )
    return [path, data]


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
