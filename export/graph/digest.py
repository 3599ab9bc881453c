"""A graph that carries a digest of itself in its names, by which caches of compiled graphs tell graphs apart."""

import hashlib

import onnx
from onnx.compose import add_prefix_graph

__all__ = ["sign"]

_DIGITS = 16  # of a sha256 of 64


def sign(model: onnx.ModelProto) -> str:
    """Put a digest of a graph, weights included, into its own name and those of all values inside; in place.

    ONNX Runtime's TensorRT provider keeps engines, which have the weights in them, in files that it calls after the
    graph and a hash of its file's name, its inputs' names and those of its nodes' outputs, never of weights
    (`TRTGenerateId` and `GetSubGraph` in core/providers/tensorrt). Without a digest, the next version of a model, of
    the same layers and in a file of the same name, would run the engine of the one before.

    Inputs, outputs, nodes and weights keep their names, and nothing that is computed changes. It comes last, as other
    steps find values by their names, and once.

    Returns:
        The digest, in hex: equal graphs have equal ones.
    """
    graph, found = model.graph, hashlib.sha256()
    for part in (*model.opset_import, *graph.input, *graph.output, *graph.node, *graph.initializer):
        found.update(part.SerializeToString(deterministic=True))  # the whole may be more than protobuf takes
    digest = found.hexdigest()[:_DIGITS]
    add_prefix_graph(
        graph,
        f"{digest}/",
        rename_nodes=False,
        rename_inputs=False,
        rename_outputs=False,
        rename_initializers=False,
        rename_value_infos=False,  # those of values inside are renamed with these
        inplace=True,
    )
    graph.name = f"{graph.name}-{digest}"
    return digest
