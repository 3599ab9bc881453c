"""Half precision inside the networks: normalisation, first layers, heads, softmax and merging stay in fp32."""

import numpy as np
import onnx

from export.graph.index import GraphIndex

__all__ = ["LAYERS", "interior", "to_half"]

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators that have weights and cost time."""


def interior(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes inside the networks: between a layer with weights and another.

    So a network's first convolution is not one, nor its last linear layer: they are a few of a thousand multiply-adds,
    and rounding images before a whitening layer, or logits, costs more accuracy than all else together.
    """
    index = GraphIndex(model)
    after: set[str] = set()  # values that depend on a layer with weights
    for node in model.graph.node:
        if any(name in after or _is_layer(index, name) for name in node.input):
            after.update(node.output)
    before: set[str] = set()  # values that a layer with weights depends on
    for node in reversed(model.graph.node):
        layer = node.op_type in LAYERS and node.input[1] in index.constants
        if layer or any(name in before for name in node.output):
            before.update(node.input)
    return [
        node.name
        for node in model.graph.node
        if any(name in before for name in node.output) and any(name in after for name in node.output)
    ]


def _is_layer(index: GraphIndex, name: str) -> bool:
    """Say whether a value is made by a layer with weights."""
    node = index.producers.get(name)
    return node is not None and node.op_type in LAYERS and node.input[1] in index.constants


def to_half(model: onnx.ModelProto) -> None:
    """Make weights and activations inside the networks fp16, in place; weights beyond its range are clipped to it."""
    inside = set(interior(model))
    index, graph = GraphIndex(model), model.graph
    made_inside = {name for node in graph.node if node.name in inside for name in node.output}
    halves: dict[str, onnx.TensorProto] = {}
    casts: dict[str, str] = {}  # value -> what it is in the other precision
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        within = node.name in inside
        for position, name in enumerate(node.input):
            tensor = index.constants.get(name)
            if within and tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT:
                halves.setdefault(name, _half(tensor))
                node.input[position] = halves[name].name
            elif tensor is None and name and within != (name in made_inside):
                if name not in casts:
                    to = onnx.TensorProto.FLOAT16 if within else onnx.TensorProto.FLOAT
                    casts[name] = f"{name}:{'fp16' if within else 'fp32'}"
                    nodes.append(onnx.helper.make_node("Cast", [name], [casts[name]], f"{casts[name]}/Cast", to=to))
                node.input[position] = casts[name]
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *halves.values()])


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a weight in fp16."""
    most = float(np.finfo(np.float16).max)
    clipped = onnx.numpy_helper.to_array(tensor).clip(-most, most)
    return onnx.numpy_helper.from_array(clipped.astype(np.float16), f"{tensor.name}:fp16")
