"""Who makes and who reads what in a graph."""

from collections import defaultdict
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, shape_inference

__all__ = ["GraphIndex"]


class GraphIndex:
    """An index of a graph as it is now.

    Args:
        model: with nodes in topological order, as ONNX has them.

    Attributes:
        producers: value -> the node that makes it.
        consumers: value -> the nodes that read it.
        constants: value -> the weight or constant that it is.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

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
        inferred = shape_inference.infer_shapes(self._model).graph.value_info
        return {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in inferred
        }
