"""Model repositories, read with the protobuf that Triton's own client brings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.pbtxt import to_text
from export.triton import Service, config, new_version
from zoo.errors import CorruptError, DataError, MenagerieError, StorageError, UsageError

CLASSES = ("cat", 'a "dog"', "été")
SERVICE = Service("five", CLASSES, (24, 32), "fp16", members=5, device="tensorrt", max_batch=64, delay=500, instances=2)
PLAIN = Service("one", CLASSES, (32, 32), "fp32")


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def model(service: Service) -> model_config_pb2.ModelConfig:
    return parsed(to_text(config(service)))


def test_every_field() -> None:
    """The message as a person who reads Triton's documentation would fill it in."""
    expected = model_config_pb2.ModelConfig(name="five", backend="onnxruntime", max_batch_size=64)
    expected.input.add(name="images", data_type="TYPE_UINT8", dims=[24, 32, 3])
    expected.output.add(name="probs", data_type="TYPE_FP32", dims=[3], label_filename="labels.txt")
    expected.output.add(name="member_probs", data_type="TYPE_FP32", dims=[5, 3])
    expected.version_policy.latest.num_versions = 1
    expected.dynamic_batching.preferred_batch_size.extend([16, 32, 64])
    expected.dynamic_batching.max_queue_delay_microseconds = 500
    expected.instance_group.add(kind="KIND_GPU", count=2)
    for batch in (1, 16, 32, 64):
        sample = expected.model_warmup.add(name=f"batch of {batch}", batch_size=batch)
        sample.inputs["images"].data_type = model_config_pb2.TYPE_UINT8
        sample.inputs["images"].dims.extend([24, 32, 3])
        sample.inputs["images"].zero_data = True
    accelerators = expected.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(
        name="tensorrt",
        parameters={
            "precision_mode": "FP16",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/tmp/tensorrt-engines",  # noqa: S108  # the server's
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "/tmp/tensorrt-engines",  # noqa: S108  # likewise
            "trt_profile_min_shapes": "images:1x24x32x3",
            "trt_profile_opt_shapes": "images:16x24x32x3",
            "trt_profile_max_shapes": "images:64x24x32x3",
        },
    )
    accelerators.add(
        name="cuda",
        parameters={
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "prefer_nhwc": "1",
            "use_tf32": "0",
        },
    )
    assert model(SERVICE) == expected


@pytest.mark.parametrize(
    ("device", "kind", "accelerators"),
    [
        (None, "KIND_AUTO", ["cuda"]),
        ("cpu", "KIND_CPU", []),
        ("cuda", "KIND_GPU", ["cuda"]),
        ("tensorrt", "KIND_GPU", ["tensorrt", "cuda"]),
    ],
)
def test_devices(device: str | None, kind: str, accelerators: list[str]) -> None:
    found = model(replace(PLAIN, device=device))
    (group,) = found.instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind
    assert [a.name for a in found.optimization.execution_accelerators.gpu_execution_accelerator] == accelerators
    assert [output.name for output in found.output] == ["probs"]


@pytest.mark.parametrize(("precision", "mode"), [("fp32", "FP32"), ("fp16", "FP16"), ("int8", "INT8")])
def test_tensorrt_runs_in_the_graphs_precision(precision: str, mode: str) -> None:
    found = model(replace(SERVICE, precision=precision)).optimization.execution_accelerators
    assert found.gpu_execution_accelerator[0].parameters["precision_mode"] == mode


@given(st.integers(1, 4096))
def test_batches_are_what_triton_accepts(most: int) -> None:
    """Preferred sizes from 1 to the largest batch, or the model does not load (core, `ValidateModelConfig`)."""
    found = model(replace(SERVICE, max_batch=most))
    preferred = list(found.dynamic_batching.preferred_batch_size)
    assert preferred == sorted(set(preferred))
    assert preferred[0] >= 1
    assert preferred[-1] == most == found.max_batch_size
    warm = [sample.batch_size for sample in found.model_warmup]
    assert warm == sorted({1, *preferred})
    assert len({sample.name for sample in found.model_warmup}) == len(warm)
    options = found.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
    least, usual, largest = (
        int(options[f"trt_profile_{key}_shapes"].removeprefix("images:").split("x")[0]) for key in ("min", "opt", "max")
    )
    assert 1 == least <= usual <= largest == most


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"name": "../up"}, UsageError, r"--name '\.\./up': names match"),
        ({"device": "gpu"}, UsageError, "unknown device 'gpu'; there are cpu, cuda, tensorrt"),
        ({"max_batch": 0}, UsageError, "numbers from 1"),
        ({"instances": 0}, UsageError, "numbers from 1"),
        ({"delay": -1}, UsageError, "from 0"),
        ({"classes": ("a", "b\nc")}, DataError, "'b.*c' is not a line"),
        ({"classes": ("a", "")}, DataError, "'' is not a line"),
    ],
)
def test_what_cannot_be_served(change: dict[str, object], error: type[MenagerieError], says: str) -> None:
    with pytest.raises(error, match=says):
        replace(PLAIN, **change)  # type: ignore[arg-type]


def put(repository: Path, service: Service, content: str = "graph") -> int:
    with new_version(repository, service) as place:
        place.graph.write_text(content, encoding="utf-8")
    return place.version


def listing(folder: Path) -> dict[str, str | None]:
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") if p.is_file() else None for p in paths}


def test_the_repository(tmp_path: Path) -> None:
    repository = tmp_path / "a" / "repository"
    assert [put(repository, PLAIN, f"graph {n}") for n in (1, 2, 3)] == [1, 2, 3]
    assert put(repository, SERVICE) == 1
    files = {name: text for name, text in listing(repository).items() if text is not None}
    assert set(files) == {
        *("one/config.pbtxt", "one/labels.txt", "one/1/model.onnx", "one/2/model.onnx", "one/3/model.onnx"),
        *("five/config.pbtxt", "five/labels.txt", "five/1/model.onnx"),
    }
    assert files["one/2/model.onnx"] == "graph 2"
    assert files["one/labels.txt"].splitlines() == list(CLASSES)
    assert parsed(files["one/config.pbtxt"]) == model(PLAIN)


def test_versions_go_on_from_the_largest(tmp_path: Path) -> None:
    put(tmp_path, PLAIN)
    for name in ("7", "old", "8.bak"):
        (tmp_path / "one" / name).mkdir()
    assert put(tmp_path, PLAIN) == 8


def test_two_at_once_get_two_versions(tmp_path: Path) -> None:
    with new_version(tmp_path, PLAIN) as first, new_version(tmp_path, PLAIN) as second:
        assert (first.version, second.version) == (1, 2)
        assert (first.kept, second.kept) == (False, True)


def test_what_people_changed_stays(tmp_path: Path) -> None:
    put(tmp_path, PLAIN)
    path = tmp_path / "one" / "config.pbtxt"
    theirs = path.read_text(encoding="utf-8").replace("max_batch_size: 256", "max_batch_size: 512  # more memory")
    path.write_text(theirs.replace("dims: [32, 32, 3]", "dims: 32 dims: 32 dims: 3"), encoding="utf-8")
    before = path.read_bytes()
    with new_version(tmp_path, PLAIN) as place:
        assert (place.version, place.kept) == (2, True)
        place.graph.touch()
    assert path.read_bytes() == before


def test_missing_labels_are_written_again(tmp_path: Path) -> None:
    put(tmp_path, PLAIN)
    (tmp_path / "one" / "labels.txt").unlink()
    put(tmp_path, PLAIN)
    assert (tmp_path / "one" / "labels.txt").read_text(encoding="utf-8") == PLAIN.labels


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ("cat", "dog", "fox")}, "labels.txt has other classes"),
        ({"image": (64, 32)}, r"input images TYPE_UINT8 \[32, 32, 3\] instead of images TYPE_UINT8 \[64, 32, 3\]"),
        ({"members": 2}, r"output probs TYPE_FP32 \[3\] instead of member_probs TYPE_FP32 \[2, 3\]; probs"),
        ({"device": "tensorrt"}, "accelerators cuda instead of tensorrt, cuda"),
        ({"device": "cpu"}, "accelerators cuda instead of none"),
    ],
)
def test_other_interfaces_are_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    put(tmp_path, PLAIN)
    before = listing(tmp_path)
    with (
        pytest.raises(UsageError, match=rf"config.pbtxt does not fit this graph: {says}.*give another --name"),
        new_version(tmp_path, replace(PLAIN, **change)),  # type: ignore[arg-type]
    ):
        pytest.fail("there is nothing to write")
    assert listing(tmp_path) == before


def test_tensorrt_in_another_precision_is_refused(tmp_path: Path) -> None:
    put(tmp_path, SERVICE)
    for device in ("tensorrt", None):
        with (
            pytest.raises(UsageError, match="TensorRT in FP16 instead of INT8"),
            new_version(tmp_path, replace(SERVICE, precision="int8", device=device)),
        ):
            pytest.fail("there is nothing to write")
    assert put(tmp_path, replace(SERVICE, device=None)) == 2, "whoever does not say what serves it takes what is there"


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (lambda text: text.replace('"onnxruntime"', '"tensorrt"'), UsageError, "it has another backend"),
        (lambda text: text + 'default_model_filename: "m.onnx"', UsageError, "a file other than model.onnx"),
        (lambda text: text.replace("output {", "outputs {"), UsageError, "output none instead of probs"),
        (lambda text: text[:200], CorruptError, r"config.pbtxt cannot be read \(.+\): mend it"),
        (lambda text: text.replace('name: "images"', ""), CorruptError, "cannot be read"),
        (lambda _: "input: 3", CorruptError, "cannot be read"),
    ],
)
def test_other_configurations_are_refused(
    tmp_path: Path, edit: Callable[[str], str], error: type[MenagerieError], says: str
) -> None:
    put(tmp_path, PLAIN)
    path = tmp_path / "one" / "config.pbtxt"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(error, match=says), new_version(tmp_path, PLAIN):
        pytest.fail("there is nothing to write")


def fail(repository: Path, error: type[BaseException], meanwhile: Callable[[Path], object]) -> None:
    with new_version(repository, PLAIN) as place:
        place.graph.write_text("half", encoding="utf-8")
        meanwhile(repository)
        raise error


@pytest.mark.parametrize("before", [[], [PLAIN], [SERVICE, PLAIN]])
@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt])
def test_a_failure_leaves_the_repository_as_it_was(
    tmp_path: Path, before: list[Service], error: type[BaseException]
) -> None:
    for service in before:
        put(tmp_path / "repository", service)
    there, seen = listing(tmp_path), list[dict[str, str | None]]()
    with pytest.raises(error):
        fail(tmp_path / "repository", error, lambda folder: seen.append(listing(folder)))
    assert "one/config.pbtxt" in seen[0], "there was something to remove"
    assert listing(tmp_path) == there


def test_a_failure_leaves_what_others_wrote_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fail(tmp_path / "repository", DataError, lambda folder: put(folder, SERVICE))
    assert [p.name for p in (tmp_path / "repository").iterdir()] == ["five"]


def test_a_repository_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "repository").touch()
    with pytest.raises(StorageError, match="cannot write"), new_version(tmp_path / "repository", PLAIN):
        pytest.fail("there is no place")
