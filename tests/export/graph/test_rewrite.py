"""Rewritten graphs say the same with less to compute; what cannot be rewritten stays as it is."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import parser

from export.graph.rewrite import crop_unread, expanded_celu, fusible_gelu

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

_Array = npt.NDArray[np.float32]


def model_of(body: str, inputs: str, outputs: str, weights: dict[str, _Array], opset: int = 18) -> onnx.ModelProto:
    """Return the graph of a text in ONNX's own syntax, with random or given weights."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{{body}}}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(model: onnx.ModelProto, x: _Array) -> list[_Array]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    said: list[_Array] = session.run(None, {"x": x})
    return said


def optimised(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Return how many nodes of each operator are left when ONNX Runtime has optimised a graph for the CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that the file is for this machine
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def pool_after_conv(
    size: tuple[int, int] = (31, 31),
    *,
    conv: str = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]",
    pool: str = "kernel_shape = [2, 2], strides = [2, 2]",
    more: str = "",
    outputs: str = "float[n, 4, h, w] y",
    kernel: tuple[int, int] = (3, 3),
) -> onnx.ModelProto:
    body = f"c = Conv<{conv}>(x, weight) y = MaxPool<{pool}>(c) {more}"
    weight = np.random.default_rng(0).standard_normal((4, 3, *kernel)).astype(np.float32)
    return model_of(body, f"float[n, 3, {size[0]}, {size[1]}] x", outputs, {"weight": weight})


def pads_of(model: onnx.ModelProto) -> list[int]:
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    return next((list(a.ints) for a in conv.attribute if a.name == "pads"), [0] * 4)


@given(
    st.tuples(st.integers(7, 24), st.integers(7, 24)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60)
def test_cropping_changes_no_answer(
    size: tuple[int, int], window: tuple[int, int], step: tuple[int, int], pads: list[int], dilation: tuple[int, int]
) -> None:
    ends = zip(size, pads[:2], pads[2:], dilation, window, strict=True)
    assume(all(n + start + end - 2 * d >= k for n, start, end, d, k in ends))  # a window that fits
    model = pool_after_conv(
        size,
        conv=f"kernel_shape = [3, 3], pads = {pads}, dilations = {list(dilation)}",
        pool=f"kernel_shape = {list(window)}, strides = {list(step)}",
    )
    x = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    (before,) = answers(model, x)
    found = crop_unread(model)
    (after,) = answers(model, x)
    np.testing.assert_allclose(after, before, atol=1e-5)
    rest = [
        max(0, min(end, (n + start + end - 2 * d - k) % s))
        for n, start, end, d, k, s in zip(size, pads[:2], pads[2:], dilation, window, step, strict=True)
    ]
    assert pads_of(model) == [*pads[:2], *(end - r for end, r in zip(pads[2:], rest, strict=True))]
    assert found == int(any(rest))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(pool_after_conv(pool="kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"), id="ceil_mode"),
        pytest.param(pool_after_conv(pool="kernel_shape = [2, 2], strides = [3, 3], dilations = [2, 2]"), id="dilated"),
        pytest.param(pool_after_conv(pool="kernel_shape = [2, 2], strides = [2, 2], pads = [0, 0, 1, 1]"), id="padded"),
        pytest.param(
            pool_after_conv(pool='kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER"'), id="auto_padded"
        ),
        pytest.param(
            pool_after_conv((30, 30), conv="kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]"), id="strided"
        ),
        pytest.param(pool_after_conv(conv='kernel_shape = [3, 3], auto_pad = "SAME_LOWER"'), id="conv auto_padded"),
        pytest.param(pool_after_conv((32, 32)), id="even"),
        pytest.param(pool_after_conv((33, 33), conv="kernel_shape = [3, 3], pads = [1, 1, 0, 0]"), id="no end padding"),
        pytest.param(
            pool_after_conv(more="z = ReduceMean(c)", outputs="float[n, 4, h, w] y, float[a, b, c, d] z"),
            id="read by two",
        ),
        pytest.param(pool_after_conv(outputs="float[n, 4, h, w] y, float[n, 4, 31, 31] c"), id="an output itself"),
        pytest.param(
            pool_after_conv(pool="kernel_shape = [40, 40], strides = [3, 3], pads = [9, 9, 9, 9]"), id="a large window"
        ),
    ],
)
def test_what_is_not_cropped(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert crop_unread(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_one_side_alone() -> None:
    model = pool_after_conv((31, 32))
    assert crop_unread(model) == 1
    assert pads_of(model) == [1, 1, 0, 1]


def gelu(how: str, outputs: str = "float[n, 5] y", *, half: float = 0.5, root: float = 2**0.5) -> onnx.ModelProto:
    constants = {"half": half, "one": 1.0, "root": root}
    weights = {name: np.array(value, np.float32) for name, value in constants.items()}
    return model_of(how, "float[n, 5] x", outputs, weights)


PYTORCH = "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)"
"""What PyTorch's exporter writes, in one of several orders of the operands."""


@pytest.mark.parametrize(
    "how",
    [
        PYTORCH,
        "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Mul(a, half) y = Mul(h, x)",
        "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Mul(half, a) y = Mul(h, x)",
    ],
)
def test_gelu_becomes_one_kernel(how: str, tmp_path: Path) -> None:
    model = gelu(how)
    assert optimised(model, tmp_path / "before.onnx")["Gelu"] == 0, "or there would be nothing to do"
    x = np.concatenate([np.linspace(-9, 9, 995), [0, -0.0, 1e-30, 88, -88]]).astype(np.float32).reshape(-1, 5)
    (before,) = answers(model, x)
    assert fusible_gelu(model) == 1
    (after,) = answers(model, x)
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(after, torch.nn.functional.gelu(torch.from_numpy(x)), atol=1e-6)
    assert optimised(model, tmp_path / "after.onnx") == {"Gelu": 1}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(gelu(PYTORCH, half=0.25), id="a quarter"),
        pytest.param(gelu(PYTORCH, root=1.5), id="another root"),
        pytest.param(gelu(PYTORCH.replace("Mul(x, h)", "Mul(d, h)")), id="of something else"),
        pytest.param(gelu(PYTORCH.replace("Add(e, one)", "Add(e, half)")), id="plus a half"),
        pytest.param(gelu(PYTORCH.replace("Erf(d)", "Tanh(d)")), id="tanh"),
        pytest.param(gelu(PYTORCH, "float[n, 5] y, float[n, 5] h"), id="half of it is an output"),
        pytest.param(gelu(PYTORCH + " z = Neg(a)", "float[n, 5] y, float[n, 5] z"), id="a part is read twice"),
    ],
)
def test_what_is_no_gelu(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert fusible_gelu(model) == 0
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("attribute", ["", "<alpha = 0.3>"])
def test_celu_by_operators_that_know_half_precision(attribute: str) -> None:
    model = model_of(f"y = Celu{attribute}(x)", "float[n, 5] x", "float[n, 5] y", {})
    x = np.linspace(-9, 9, 100, dtype=np.float32).reshape(-1, 5)
    (before,) = answers(model, x)
    assert expanded_celu(model) == 1
    assert "Celu" not in {node.op_type for node in model.graph.node}
    (after,) = answers(model, x)
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(after, torch.nn.functional.celu(torch.from_numpy(x), 0.3 if attribute else 1), atol=1e-6)


def test_in_a_real_graph(workshop: "Workshop", tmp_path: Path) -> None:
    model = workshop.model(workshop.committee(), member_probs=True)
    left = optimised(model, tmp_path / "optimised.onnx")
    assert (left["Gelu"], left["Erf"]) == (2 * 7, 0)
    first = [node for node in model.graph.node if node.name.endswith("groups.0.conv1/Conv")]
    assert [list(a.ints) for node in first for a in node.attribute if a.name == "pads"] == [[1, 1, 0, 0]] * 2
