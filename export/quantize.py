"""Static int8 quantization: calibrated on training images, weights a scale a channel, layers that hurt left in fp32.

A graph's convolutions, and what lies between them, get QuantizeLinear and DequantizeLinear nodes ("QDQ"), which every
runtime fuses into integer kernels. The arithmetic is ONNX Runtime's quantization tools':
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData, create_calibrator
from onnxruntime.quantization.calibrate import TensorData

from export.graph.half import LAYERS, interior
from export.graph.index import GraphIndex
from export.graph.save import save
from export.runtime.answer import Floats
from zoo.data import Split
from zoo.errors import DataError

__all__ = ["MOST_DIVERGENCE", "Calibration", "divergence", "multiply_adds", "quantize"]

MOST_DIVERGENCE = 1e-3
"""Nats between a member's probabilities in fp32 and in int8, in the mean over calibration images, from which layers are
left out: of a thousand images, five or so then change their class."""

_PERCENTILES = (99.99, 99.999, 100.0)
_OPERATORS = ["Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "Relu", "Add", "Concat"]
_BATCH = 64
_TINY = 1e-12

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """How a graph was quantized.

    Attributes:
        images: how many it was calibrated on.
        fingerprint: of these images.
        percentile: of activations, in %, that the integer range covers; what lies beyond is clipped.
        left_out: layers that stayed in fp32, by name.
        quantized: layers that did not.
        divergence: of the member that changed most: mean over images of the Kullback-Leibler divergence between its
            probabilities in fp32 and in int8, in nats.
    """

    images: int
    fingerprint: str
    percentile: float
    left_out: tuple[str, ...]
    quantized: int
    divergence: float

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, as JSON has them."""
        return {**asdict(self), "left_out": list(self.left_out), "divergence": float(f"{self.divergence:.2g}")}


def divergence(expected: Floats, found: Floats) -> npt.NDArray[np.float64]:
    """Return the mean Kullback-Leibler divergence of members' probabilities from what they should be, in nats, `[M]`.

    Args:
        expected: probabilities `[N, M, C]`.
        found: as many.
    """
    p, q = (np.maximum(np.asarray(x, np.float64), _TINY) for x in (expected, found))
    each: npt.NDArray[np.float64] = (p * (np.log(p) - np.log(q))).sum(-1).mean(0)
    return each


def quantize(
    model: onnx.ModelProto, split: Split, output: str, *, most: float = MOST_DIVERGENCE, tell: Tell = lambda _: None
) -> tuple[onnx.ModelProto, Calibration]:
    """Return a graph in int8, and how it was made.

    The range of activations is the percentile of three that changes the members' probabilities least. If these then
    change more than `most`, layers are left out, those first that change most for the multiply-adds they save.

    Args:
        model: in fp32.
        split: images to calibrate on; no image of a split that anything is measured on.
        output: the graph's output with each member's probabilities or log-probabilities, `[N, M, C]`.
        most: divergence of a member, see `MOST_DIVERGENCE`.
        tell: called with a few words before anything slow.

    Raises:
        DataError: even with no more than half of the multiply-adds in int8, probabilities change more than `most`.
    """
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(model, split.images[split.order], output, Path(folder))
        layers = multiply_adds(model)
        tell(f"calibrating {len(layers)} layers on {len(split)} images")
        ranges = bench.ranges()
        tried = {percentile: bench.changed(ranges[percentile], layers) for percentile in _PERCENTILES}
        percentile = min(tried, key=lambda p: float(tried[p].max()))
        found, left_out = tried[percentile], list[str]()
        if not found.max() <= most:  # nor is what is no number
            tell(f"int8 changes probabilities by {found.max():.2g} nats: looking for the layers that hurt")
            hurt = {name: float(bench.changed(ranges[percentile], [name]).max()) for name in layers}
            for name in sorted(layers, key=lambda name: hurt[name] / layers[name], reverse=True):
                left_out.append(name)
                saved = sum(macs for layer, macs in layers.items() if layer not in left_out)
                if 2 * saved < sum(layers.values()):
                    raise DataError(
                        f"int8 changes probabilities by {found.max():.2g} nats even with {len(left_out) - 1} of "
                        f"{len(layers)} layers in fp32; {most:g} are allowed: export in fp16 or fp32"
                    )
                found = bench.changed(ranges[percentile], [layer for layer in layers if layer not in left_out])
                if found.max() <= most:
                    break
        kept = [layer for layer in layers if layer not in left_out]
        quantized = bench.quantized(ranges[percentile], kept)
    about = Calibration(len(split), split.fingerprint, percentile, tuple(left_out), len(kept), float(found.max()))
    return quantized, about


def multiply_adds(model: onnx.ModelProto) -> dict[str, float]:
    """Return the layers of a graph that int8 makes faster, with their multiply-adds an image and view.

    They are all convolutions, and the linear layers inside the networks; heads are left to fp32.
    """
    index, inside = GraphIndex(model), set(interior(model))
    found: dict[str, float] = {}
    for node in model.graph.node:
        tensor = index.constants.get(node.input[1]) if node.op_type in LAYERS else None
        if tensor is None or (node.op_type != "Conv" and node.name not in inside):
            continue
        shape = index.shapes.get(node.output[0], ())
        area = np.prod([dim for dim in shape[2:] if isinstance(dim, int)], dtype=np.float64)
        found[node.name] = float(np.prod(tensor.dims, dtype=np.float64) * area)
    return found


class _Reader:
    """Images in batches, as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._parts = iter([images])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {"images": part}


class _Bench:
    """A graph in fp32, what it says of the calibration images, and trials of it in int8."""

    def __init__(self, model: onnx.ModelProto, images: npt.NDArray[np.uint8], output: str, folder: Path) -> None:
        self._model, self._images, self._output, self._folder = model, images, output, folder
        self._pixels = _pixels(model)
        self._inside, self._constants = set(interior(model)), GraphIndex(model).constants
        self._expected = self._run(model)

    def ranges(self) -> dict[float, TensorsData]:
        """Return the range of each activation, for each percentile."""
        path = self._folder / "fp32.onnx"
        _save(self._model, path)
        calibrator = create_calibrator(
            path,
            _OPERATORS,
            augmented_model_path=str(self._folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            use_external_data_format=True,
            extra_options={"percentile": _PERCENTILES[0]},
        )
        found = {}
        with redirect_stdout(StringIO()):  # it prints what it does
            for start in range(0, len(self._images), _BATCH):  # it keeps all activations of what it gets at once
                calibrator.collect_data(_Reader(self._images[start : start + _BATCH]))
                calibrator.clear_collected_data()
            for percentile in _PERCENTILES:
                calibrator.collector.percentile = percentile
                found[percentile] = calibrator.compute_data()
                for name in self._pixels:  # known without looking, and in integers already
                    found[percentile][name] = TensorData(lowest=np.float32(0), highest=np.float32(255))
        return found

    def quantized(self, ranges: TensorsData, layers: Iterable[str]) -> onnx.ModelProto:
        """Return the graph with these layers in int8, and with what between them can follow."""
        between = [
            node.name
            for node in self._model.graph.node
            if node.name in self._inside
            and node.op_type not in LAYERS
            and not any(name in self._constants for name in node.input)  # a shortcut, not a part of GELU
        ]
        copied = onnx.ModelProto()
        copied.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            copied,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[*layers, *between],  # of the latter, those whose inputs are integers
            nodes_to_exclude=[],
            op_types_to_quantize=_OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        _keep_pixels(made, self._pixels)
        del made.metadata_props[:]
        return made

    def changed(self, ranges: TensorsData, layers: Iterable[str]) -> npt.NDArray[np.float64]:
        """Return how far each member's probabilities are from fp32 with these layers in int8, `[M]`."""
        return divergence(self._expected, self._run(self.quantized(ranges, layers)))

    def _run(self, model: onnx.ModelProto) -> Floats:
        """Return the members' probabilities, `[N, M, C]`."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:  # or each trial's weights would stay
            path = Path(folder) / "trial.onnx"
            _save(model, path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        starts: Sequence[int] = range(0, len(self._images), _BATCH)
        parts = [session.run([self._output], {"images": self._images[n : n + _BATCH]})[0] for n in starts]
        values = np.concatenate(parts)
        return np.exp(values) if self._output == "log_probs" else values


def _pixels(model: onnx.ModelProto) -> list[str]:
    """Return what is made of uint8 pixels by writing them as floating point, and read by layers."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    return sorted({n.input[0] for n in model.graph.node if n.op_type in LAYERS and n.input[0] in made})


def _keep_pixels(model: onnx.ModelProto, floats: Sequence[str]) -> None:
    """Let layers read pixels as the integers that they are, and not as integers made of floating point; in place."""
    index = GraphIndex(model)
    for name in floats:
        cast = index.producers[name]
        quantizers = [node for node in index.consumers[name] if node.op_type == "QuantizeLinear"]
        if len(quantizers) < len(index.consumers[name]):  # some layer is in fp32
            continue
        for quantizer in quantizers:
            for reader in index.consumers[quantizer.output[0]]:
                reader.input[0] = cast.input[0]
            model.graph.node.remove(quantizer)
        model.graph.node.remove(cast)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph and, beside it, its weights, which stay in the graph, too."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    save(copied, path, external_from=0)
