"""Exported graphs, by the contract: a tiny one, made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ensemble.latency import hardware
from ensemble.report.graphs import Graph
from ensemble.report.graphs import find_graphs as found_in
from export.metadata import About, metadata_props
from export.runtime import open_session
from tests.conftest import CLASSES, random_split
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError

WEIGHTS = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
LOCKFILE = {
    "format": "menagerie.ensemble/1",
    "dataset": "cifar10",
    "classes": list(CLASSES),
    "members": [{"name": "a"}, {"name": "b"}],
    "views": "flip",
    "merge": "probs",
    "metrics": {"val": {"accuracy": 0.9, "nll": 0.3}},
}


def write_graph(path: Path, lockfile: dict[str, Any] = LOCKFILE, *, output: str = "probs", half: bool = False) -> None:
    """A graph that takes the mean colour for the classes."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights = numpy_helper.from_array(WEIGHTS.astype(np.float16 if half else np.float32), "weights")
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=kind),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["soft"]),
        helper.make_node("Cast", ["soft"], [output], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 10])],
        [weights, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = About(lockfile, "fp16" if half else "fp32", 18)
    helper.set_model_props(model, metadata_props(about))
    onnx.save(model, str(path))


def find_graphs(folder: Path, device: str = "cpu") -> list[Graph]:
    """Find them as `ensemble report` does."""
    return found_in(folder, lambda path: open_session(path, device=device))


def expected(images: "np.ndarray[Any, np.dtype[np.uint8]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    logits = images.astype(np.float64).mean((1, 2)) @ WEIGHTS
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_a_graph_answers_and_says_what_it_is(tmp_path: Path) -> None:
    write_graph(tmp_path / "b.onnx")
    write_graph(tmp_path / "a.onnx", half=True)
    half, graph = find_graphs(tmp_path)
    assert [half.path.name, graph.path.name] == ["a.onnx", "b.onnx"]
    assert (half.precision, graph.precision) == ("fp16", "fp32")
    assert graph.members == ("a", "b")
    assert graph.validation == (0.9, 0.3)
    split = random_split(30)
    np.testing.assert_allclose(graph.run(split.images), expected(split.images), rtol=1e-4, atol=1e-6)
    said = graph.answers(split, "test")
    np.testing.assert_allclose(said.probs, expected(split.images[split.order]), rtol=1e-4, atol=1e-6)
    assert said.likelihood


def test_answers_are_kept_by_the_graph_and_the_images(tmp_path: Path, zoo_home: Path) -> None:
    write_graph(tmp_path / "a.onnx")
    (graph,) = find_graphs(tmp_path)
    split = random_split(20)
    first = graph.answers(split, "test")
    (kept,) = (zoo_home / "graphs").iterdir()
    np.save(kept, first.probs[::-1])
    np.testing.assert_array_equal(
        graph.answers(split, "test").probs, first.probs[::-1], "what is kept is not run again"
    )
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(graph.answers(split, "test").probs, first.probs)
    graph.answers(random_split(20, seed=1), "test")
    assert len([*(zoo_home / "graphs").iterdir()]) == 2


def test_another_runtime_may_answer_otherwise(tmp_path: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(tmp_path / "a.onnx")
    (graph,) = find_graphs(tmp_path)
    split = random_split(20)
    graph.answers(split, "test")
    newer = {**hardware.versions(), "onnxruntime": "99.9"}
    monkeypatch.setattr(hardware, "versions", lambda: newer)
    graph.answers(split, "test")
    assert len([*(zoo_home / "graphs").iterdir()]) == 2


def test_what_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"junk")
    with pytest.raises(CorruptError, match="is not an ONNX graph"):
        find_graphs(tmp_path)


def test_a_graph_for_other_classes_or_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no \*.onnx file"):
        find_graphs(tmp_path)
    write_graph(tmp_path / "a.onnx", {**LOCKFILE, "classes": ["x", "y"]})
    with pytest.raises(DataError, match="other classes"):
        find_graphs(tmp_path)[0].answers(random_split(5), "test")


def test_a_device_that_onnx_runtime_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    write_graph(tmp_path / "a.onnx")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="has no CUDAExecutionProvider"):
        find_graphs(tmp_path, "cuda")
