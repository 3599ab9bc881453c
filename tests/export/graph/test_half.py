"""Half precision: inside the networks, and nowhere else."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import parser, shape_inference

from ensemble.merge import Merge
from export.graph.half import interior, to_half
from export.runtime import Session
from tests.export.conftest import torch_says
from tests.export.graph.test_trace import FAMILIES, NETWORKS, of_many_families
from zoo.data import Split

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every weight and of whatever flows between nodes."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in inferred.initializer}


def network_of(name: str) -> tuple[str, str]:
    """Return the member and the layer that a node's name says it comes from."""
    member, _, layer = name.partition("/")
    return (member, layer) if layer and member.startswith("tiny") else ("", name)


@pytest.mark.parametrize(
    ("members", "views", "how", "temperature"),
    [("ab", "flip", "probs", 0.7), ("abc", "flip+shift1", "logits", 2.5), ("ad", "none", "vote", 1.0)],
)
def test_which_numbers_are_in_half_precision(
    workshop: "Workshop", members: str, views: str, how: Merge, temperature: float
) -> None:
    committee = workshop.committee(members, views, how, temperature)
    model = workshop.model(committee, precision="fp16", member_probs=True)
    kinds = types(model)
    for value in model.graph.output:
        assert kinds[value.name] == FLOAT
    for node in model.graph.node:
        member, layer = network_of(node.name)
        made, read = {kinds[name] for name in node.output}, {kinds[name] for name in node.input}
        outside = not member or layer.startswith(("whiten/Conv", "head/"))
        if node.op_type in {"Conv", "Gemm"}:
            assert read == ({FLOAT} if outside else {HALF}), node.name
        elif node.op_type in {"LogSoftmax", "Softmax", "Exp", "Einsum", "ReduceMean", "Log", "OneHot", "ArgMax", "Sub"}:
            assert HALF not in read | made, node.name
        elif node.op_type in {"Erf", "MaxPool"}:
            assert read | made == {HALF}, node.name
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(members) * 7
    assert sum(kinds[node.input[1]] == HALF for node in convolutions) == len(members) * 6
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    changes = [node.name for node in casts if HALF in {kinds[node.input[0]], kinds[node.output[0]]}]
    assert len(changes) == len(members) * 2, "into and out of each network"


def test_the_file_is_smaller(workshop: "Workshop") -> None:
    committee = workshop.committee()
    whole, half = (
        sum(len(t.raw_data) for t in workshop.model(committee, precision=p, member_probs=True).graph.initializer)
        for p in ("fp32", "fp16")
    )
    assert half < 0.7 * whole


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name not in FAMILIES)]
)
def test_every_family_answers_nearly_the_same(workshop: "Workshop", seen: Split, name: str) -> None:
    committee = of_many_families(workshop, FAMILIES if name in FAMILIES else NETWORKS)
    session = Session(workshop.graph(committee, precision="fp16", member_probs=True), device="cpu")
    number = [member.name for member in committee.members].index(name)
    found = session.answer(seen.images).member_probs
    assert found is not None
    _, wanted, _ = torch_says(committee, seen.images)
    difference = np.abs(found - wanted)[:, number].max()
    assert 1e-7 < difference < 0.03, "rounded, but not more than that"


TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[batch, 2, 4, 4] images) => (float[batch, 2] probs, float[batch, 2, 4, 4] twice)
<float two = {2.0}, int64[2] flat = {0, -1}, int64[2] axes = {2, 3}>
{
  s = Mul(images, two)
  a = Conv<kernel_shape = [1, 1]>(s, first)
  b = Relu(a)
  c = Conv<kernel_shape = [1, 1]>(b, second)
  d = Add(c, s)
  e = Conv<kernel_shape = [1, 1]>(d, third)
  twice = Mul(c, two)
  m = ReduceMean<keepdims = 0>(e, axes)
  probs = MatMul(m, head)
}
"""


def small(scale: float = 1.0) -> onnx.ModelProto:
    """Three layers and a head; a value from outside and one from inside are read on both sides."""
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name in ("first", "second", "third"):
        weight = (rng.standard_normal((2, 2, 1, 1)) * (scale if name == "second" else 1)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "head"))
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def test_the_inside_is_between_layers_with_weights() -> None:
    assert interior(small()) == ["b", "c", "d", "e", "m"]


def test_values_read_on_both_sides(tmp_path: Path) -> None:
    model = small()
    onnx.save(model, tmp_path / "whole.onnx")
    to_half(model)
    onnx.save(model, tmp_path / "half.onnx")
    kinds = types(model)
    assert {name: kinds[name] for name in ("s", "a", "b", "c", "d", "e", "m", "twice", "probs")} == (
        dict.fromkeys("sa", FLOAT) | dict.fromkeys("bcdem", HALF) | {"twice": FLOAT, "probs": FLOAT}
    )
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == [("a", HALF), ("c", FLOAT), ("m", FLOAT), ("s", HALF)], "each once"
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert weights == {
        "two": FLOAT,
        "axes": onnx.TensorProto.INT64,
        "first": FLOAT,
        "head": FLOAT,
        "second:fp16": HALF,
        "third:fp16": HALF,
    }
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((3, 2, 4, 4)).astype(np.float32)
    said = [
        onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx")).run(None, {"images": x})
        for name in ("whole", "half")
    ]
    for whole, half in zip(*said, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, whole, atol=0.02)


def test_weights_beyond_the_range_are_clipped_to_it() -> None:
    model = small(scale=1e9)
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}["second"]
    to_half(model)
    half = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}["second:fp16"]
    assert np.isfinite(half).all()
    np.testing.assert_array_equal(half, 65504 * np.sign(before).astype(np.float16))
