"""Who makes and who reads what, and shapes, which large weights do not make heavier to find."""

import onnx
import pytest
from onnx import parser

from export.graph.index import GraphIndex

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[batch, 3, 8, 8] x) => (float[batch, m] y)
<int64[2] flat = {0, -1}, float[1, 1] one = {1.5}, float k = {2.5}>
{
  c = Conv<pads = [1, 1, 1, 1]>(x, weight)
  d = Mul(c, c)
  f = Reshape(d, flat)
  y = Mul(f, one)
}
"""


def graph() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    weight = onnx.TensorProto(name="weight", data_type=onnx.TensorProto.FLOAT, dims=[16, 3, 3, 3])
    weight.raw_data = bytes(16 * 27 * 4)
    model.graph.initializer.append(weight)
    return model


def test_who_makes_and_who_reads_what() -> None:
    index = GraphIndex(graph())
    assert {value: node.op_type for value, node in index.producers.items()} == {
        "c": "Conv",
        "d": "Mul",
        "f": "Reshape",
        "y": "Mul",
    }
    assert [node.op_type for node in index.consumers["c"]] == ["Mul", "Mul"]
    assert [node.op_type for node in index.consumers["weight"]] == ["Conv"]
    assert index.consumers["y"] == []
    assert (set(index.constants), index.outputs) == ({"weight", "flat", "one", "k"}, {"y"})


@pytest.mark.parametrize(
    ("name", "value"), [("one", 1.5), ("k", 2.5), ("flat", None), ("weight", None), ("x", None), ("", None)]
)
def test_numbers(name: str, value: float | None) -> None:
    assert GraphIndex(graph()).scalar(name) == value


def test_shapes() -> None:
    assert GraphIndex(graph()).shapes == {
        "c": ("batch", 16, 8, 8),
        "d": ("batch", 16, 8, 8),
        "f": ("batch", 16 * 64),
    }


def test_shapes_of_more_than_protobuf_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of more than 2 GiB cannot be serialised, and inference by ONNX serialises what it is given."""
    model, given = graph(), list[int]()
    original = onnx.shape_inference.infer_shapes

    def spy(light: onnx.ModelProto) -> onnx.ModelProto:
        given.append(light.ByteSize())
        return original(light)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spy)
    assert GraphIndex(model).shapes["d"] == ("batch", 16, 8, 8)
    assert given[0] < 1000 < model.ByteSize()
    assert len(model.graph.input) == 1, "the graph itself stays as it is"
