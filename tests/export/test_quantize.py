"""int8: what is quantized and how, what is left out, and what is refused."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from export import quantize as module
from export.quantize import Calibration, divergence, multiply_adds, quantize
from tests.ensemble.conftest import pictures
from zoo.data import Split
from zoo.errors import DataError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

CALIBRATION = pictures(32, seed=3)
LAYERS = 2 * 7
LOOSE = 1.0


@pytest.fixture(scope="module")
def whole(workshop: "Workshop") -> onnx.ModelProto:
    """Two tiny networks in fp32, with the operators that int8 has by default."""
    return workshop.model(workshop.committee("ab", "none", "probs", 0.7), opset=20, member_probs=True)


@pytest.fixture(scope="module")
def made(whole: onnx.ModelProto) -> tuple[onnx.ModelProto, Calibration]:
    """The same in int8, and how."""
    return quantize(whole, CALIBRATION, "member_probs", most=LOOSE)


def run(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    probs, own = session.run(["probs", "member_probs"], {"images": images})
    return probs, own


def dequantized(model: onnx.ModelProto) -> dict[str, tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], int]]:
    """Return layer -> its weights, their scales and the axis of these, of layers in int8."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        maker = makers.get(node.input[1]) if node.op_type in {"Conv", "Gemm", "MatMul"} else None
        if maker is not None and maker.op_type == "DequantizeLinear":
            axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
            found[node.name] = (tensors[maker.input[0]], tensors[maker.input[1]], axis)
    return found


def test_weights_are_int8_with_a_scale_a_channel(
    whole: onnx.ModelProto, made: tuple[onnx.ModelProto, Calibration]
) -> None:
    layers = dequantized(made[0])
    convolutions = {node.name: node.input[1] for node in whole.graph.node if node.op_type == "Conv"}
    assert set(layers) == set(convolutions), "every convolution, and no head"
    assert len(layers) == LAYERS
    originals = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    for name, (weight, scale, axis) in layers.items():
        assert (str(weight.dtype), axis, scale.shape) == ("int8", 0, (len(weight),))
        original = originals[convolutions[name]]
        np.testing.assert_allclose(weight * scale[:, None, None, None], original, atol=0.51 * scale.max())
        np.testing.assert_allclose(np.abs(original).max((1, 2, 3)) / 127, scale, rtol=0.02)
    assert len(np.unique(np.concatenate([scale for _, scale, _ in layers.values()]))) > LAYERS


def test_activations_are_uint8(made: tuple[onnx.ModelProto, Calibration]) -> None:
    tensors = {tensor.name: tensor.data_type for tensor in made[0].graph.initializer}
    quantizers = [node for node in made[0].graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) >= LAYERS
    assert {tensors[node.input[2]] for node in quantizers} == {onnx.TensorProto.UINT8}


def test_onnx_runtime_runs_integer_kernels(made: tuple[onnx.ModelProto, Calibration], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made[0].SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert names.count("QLinearConv") == LAYERS
    assert "Conv" not in names
    assert "FusedConv" not in names


def test_what_it_says_and_what_is_said_of_it(whole: onnx.ModelProto, made: tuple[onnx.ModelProto, Calibration]) -> None:
    model, about = made
    (_, wanted), (_, found) = run(whole, CALIBRATION.images), run(model, CALIBRATION.images)
    apart = [scipy.stats.entropy(wanted[:, m], found[:, m], axis=-1).mean() for m in range(2)]
    assert about.divergence == pytest.approx(max(apart), rel=1e-3)
    assert 0 < about.divergence < 0.1
    assert (about.images, about.fingerprint) == (32, CALIBRATION.fingerprint)
    assert (about.left_out, about.quantized) == ((), LAYERS)
    assert about.percentile in {99.99, 99.999, 100.0}
    assert about.to_dict() == {
        "images": 32,
        "fingerprint": CALIBRATION.fingerprint,
        "percentile": about.percentile,
        "left_out": [],
        "quantized": LAYERS,
        "divergence": float(f"{about.divergence:.2g}"),
    }


def test_the_order_of_the_images_changes_nothing(
    whole: onnx.ModelProto, made: tuple[onnx.ModelProto, Calibration]
) -> None:
    other, about = quantize(
        whole, CALIBRATION.subset(np.random.default_rng(0).permutation(32)), "member_probs", most=LOOSE
    )
    assert about == made[1]
    assert other.SerializeToString(deterministic=True) == made[0].SerializeToString(deterministic=True)


def test_layers_that_hurt_are_left_out(whole: onnx.ModelProto, made: tuple[onnx.ModelProto, Calibration]) -> None:
    said: list[str] = []
    most = 0.8 * made[1].divergence
    model, about = quantize(whole, CALIBRATION, "member_probs", most=most, tell=said.append)
    assert about.left_out
    assert len(about.left_out) + about.quantized == LAYERS
    assert about.divergence <= most
    kept = dequantized(model)
    assert set(kept) | set(about.left_out) == set(multiply_adds(whole))
    assert not set(kept) & set(about.left_out)
    saved = multiply_adds(whole)
    assert 2 * sum(saved[name] for name in kept) >= sum(saved.values())
    assert said[0] == "calibrating 14 layers on 32 images"
    assert said[1].startswith("int8 changes probabilities by ")
    (_, wanted), (_, found) = run(whole, CALIBRATION.images), run(model, CALIBRATION.images)
    assert divergence(wanted, found).max() == pytest.approx(about.divergence, rel=1e-3)


def test_too_many_layers_that_hurt_are_refused(whole: onnx.ModelProto) -> None:
    with pytest.raises(DataError) as no:
        quantize(whole, CALIBRATION, "member_probs", most=1e-12)
    text = str(no.value)
    assert text.startswith("int8 changes probabilities by ")
    assert text.endswith("of 14 layers in fp32; 1e-12 are allowed: export in fp16 or fp32")


def test_probabilities_that_are_no_numbers_are_refused(whole: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "divergence", lambda expected, _: np.full(expected.shape[1], np.nan))
    with pytest.raises(DataError, match="export in fp16 or fp32"):
        quantize(whole, CALIBRATION.subset(slice(0, 4)), "member_probs")


def test_multiply_adds(whole: onnx.ModelProto) -> None:
    found = multiply_adds(whole)
    # 2x2 whitening with 24 filters; three groups of 8 channels, the first convolution of each on the map before its
    # pooling, less the row and column that this leaves out.
    wanted = {"whiten": 4 * 3 * 24 * 31**2, "groups.0.conv1": 9 * 24 * 8 * 30**2, "groups.0.conv2": 9 * 64 * 15**2}
    wanted |= {"groups.1.conv1": 9 * 64 * 14**2, "groups.1.conv2": 9 * 64 * 7**2}
    wanted |= {"groups.2.conv1": 9 * 64 * 6**2, "groups.2.conv2": 9 * 64 * 3**2}
    assert found == {f"tiny-{m}/{layer}/Conv": count for m in "ab" for layer, count in wanted.items()}


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 3), st.integers(2, 4)),
        elements=st.floats(0.01, 1),
    )
)
def test_divergence_is_scipys(pair: npt.NDArray[np.float64]) -> None:
    p, q = pair / pair.sum(-1, keepdims=True)
    wanted = scipy.stats.entropy(p, q, axis=-1).mean(0)
    found = divergence(p.astype(np.float32), q.astype(np.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_divergence_of_what_is_impossible_is_finite() -> None:
    sure, other = (np.array([[[1.0, 0.0]]], np.float32), np.array([[[0.0, 1.0]]], np.float32))
    assert divergence(sure, other) == pytest.approx([12 * np.log(10)], rel=1e-6)
    assert divergence(sure, sure) == pytest.approx([0])


def test_stages_of_a_cascade_are_calibrated_by_log_probabilities(workshop: "Workshop", seen: Split) -> None:
    path = workshop.graph(workshop.cascade())
    model = onnx.load(path / "stage1.onnx")
    made, about = quantize(model, CALIBRATION, "log_probs", most=LOOSE)
    assert (about.quantized, about.left_out) == (7, ())
    said = [
        onnxruntime.InferenceSession(graph.SerializeToString()).run(["log_probs"], {"images": seen.images})[0]
        for graph in (model, made)
    ]
    apart = scipy.stats.entropy(np.exp(said[0]), np.exp(said[1]), axis=-1).mean()
    assert 0 < apart < 0.1
