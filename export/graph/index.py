"""Who makes and who reads what in a graph."""

from collections import defaultdict
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, shape_inference

__all__ = ["GraphIndex"]

_LARGE = 1024  # bytes; a shape that is a weight is smaller


class GraphIndex:
    """An index of a graph as it is now.

    Args:
        model: with nodes in topological order, as ONNX has them.

    Attributes:
        producers: value -> the node that makes it.
        consumers: value -> the nodes that read it.
        constants: value -> the weight or constant that it is.
        outputs: of the graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}

    def scalar(self, name: str) -> float | None:
        """Return the number that a value is, if it is a constant with one element."""
        tensor = self.constants.get(name)
        if tensor is None or int(np.prod(tensor.dims, dtype=np.int64)) != 1:
            return None
        array: npt.NDArray[np.generic] = numpy_helper.to_array(tensor)
        return float(array.reshape(-1)[0])

    @cached_property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of what flows between nodes; dimensions that depend on the batch by name, or as an empty text."""
        inferred = shape_inference.infer_shapes(_light(self._model)).graph.value_info
        return {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in inferred
        }


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose large weights are inputs: shapes do not depend on them, and protobuf ends at 2 GiB."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if tensor.ByteSize() < _LARGE]
    large = [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.ByteSize() >= _LARGE
    ]
    light = onnx.helper.make_graph(graph.node, graph.name, [*graph.input, *large], graph.output, small)
    return onnx.helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
