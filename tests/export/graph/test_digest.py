"""A digest in a graph's names, so that no cache of engines takes one graph for another."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from export.graph.digest import sign
from export.pipeline import export
from tests.export.conftest import order_of

if TYPE_CHECKING:
    from ensemble.lockfile import Committee
    from tests.export.conftest import Workshop
    from zoo.data import Split


def small(weight: float = 2.0, power: int = 3) -> onnx.ModelProto:
    """Return (w x) ** p, between one input and one output, with types of what is between."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], "mul"),
        helper.make_node("Pow", ["scaled", "p"], ["high"], "pow"),
        helper.make_node("Clip", ["high", "", "most"], ["y"], "clip"),
    ]
    values = {name: helper.make_tensor_value_info(name, number, [None]) for name in ("x", "scaled", "high", "y")}
    weights = [helper.make_tensor(name, number, [], [v]) for name, v in (("w", weight), ("p", power), ("most", 1e6))]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"]], weights)
    graph.value_info.extend(values[name] for name in ("scaled", "high", "y"))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def inner(model: onnx.ModelProto) -> set[str]:
    """Return the names of what nodes make and the graph does not give."""
    return {name for node in model.graph.node for name in node.output} - {value.name for value in model.graph.output}


def answers(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(["y"], {"x": np.arange(5, dtype=np.float32)})[0]
    return found


def test_every_name_inside_and_no_other() -> None:
    plain, signed = small(), small()
    digest = sign(signed)
    assert len(digest) == 16
    assert inner(signed) == {f"{digest}/scaled", f"{digest}/high"}
    assert signed.graph.name == f"g-{digest}"
    assert [value.name for value in signed.graph.value_info] == [f"{digest}/scaled", f"{digest}/high", "y"]
    assert signed.graph.input == plain.graph.input
    assert signed.graph.output == plain.graph.output
    assert signed.graph.initializer == plain.graph.initializer
    assert [node.name for node in signed.graph.node] == ["mul", "pow", "clip"]
    assert list(signed.graph.node[2].input) == [f"{digest}/high", "", "most"], "an input left out stays left out"
    onnx.checker.check_model(signed, full_check=True)
    np.testing.assert_array_equal(answers(signed), (2 * np.arange(5.0)) ** 3)


def test_equal_graphs_have_equal_names() -> None:
    first, second = small(), small()
    second.metadata_props.add(key="made", value="later")
    assert sign(first) == sign(second)
    assert first.graph == second.graph


def other_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("a", 1))


def other_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Add"


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def other_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7


def test_whatever_else_is_other_gives_other_names() -> None:
    graphs = [small(), small(weight=np.nextafter(np.float32(2), np.float32(3))), small(power=2)]
    for change in (other_attribute, other_operator, other_opset, other_size):
        graphs.append(small())
        change(graphs[-1])
    digests = [sign(model) for model in graphs]
    assert len(set(digests)) == len(digests)


@pytest.fixture
def pair(workshop: "Workshop", one: "Committee") -> list[Path]:
    """Graphs of the same member at two temperatures."""
    return [workshop.graph(replace(one, temperature=temperature)) for temperature in (0.9, 1.1)]


def test_exported_graphs_of_the_same_members(pair: list[Path]) -> None:
    """Their layers are called the same, whatever their weights and temperature: nothing else tells them apart."""
    first, second = map(onnx.load, pair)
    retrained = onnx.load(pair[0])
    weight = max(retrained.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = bytes(reversed(weight.raw_data))
    sign(retrained)
    for a, b in itertools.combinations((first, second, retrained), 2):
        assert len(inner(a)) == len(inner(b)) > 5
        assert not inner(a) & inner(b)
        assert a.graph.name != b.graph.name
    assert [node.name for node in first.graph.node] == [node.name for node in second.graph.node]
    unsigned = [{name.partition("/")[2] for name in inner(model)} for model in (first, second)]
    assert unsigned[0] == unsigned[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_in_every_precision_are_signed(
    workshop: "Workshop", one: "Committee", seen: "Split", precision: str
) -> None:
    model = workshop.model(one, precision=precision, calibration=seen if precision == "int8" else None)
    digest = model.graph.name.removeprefix("menagerie-")
    assert len(digest) == 16
    assert {name.partition("/")[0] for name in inner(model)} == {digest}
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "probs"]


@pytest.mark.usefixtures("traced_once")
def test_the_same_bytes_twice(one: "Committee", tmp_path: Path) -> None:
    first, second = (export(order_of(one), tmp_path / f"{n}.onnx").path.read_bytes() for n in range(2))
    assert first == second


def test_what_onnx_runtime_hashes_differs(pair: list[Path], tmp_path: Path) -> None:
    """What it rewrites before it asks a provider which nodes it takes leaves no name as it was without a digest."""
    left: list[onnx.ModelProto] = []
    for path in pair:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{len(left)}.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        left.append(onnx.load(options.optimized_model_filepath))
    assert len(inner(left[0])) > 5
    assert not inner(left[0]) & inner(left[1])
    assert left[0].graph.name != left[1].graph.name
