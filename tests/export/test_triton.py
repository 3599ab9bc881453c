"""Model repositories, read with the protobuf that Triton's own client brings."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.pbtxt import to_text
from export.triton import Service, config, in_version, new_version
from zoo.errors import DataError, MenagerieError, StorageError, UsageError

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


def loaded(folder: Path, latest: int = 1) -> list[int]:
    """Return the versions that Triton would load of a model under the policy `latest` (core, `VersionsToLoad`)."""
    names = [part.name for part in folder.iterdir() if part.is_dir()] if folder.is_dir() else []
    numbers = [re.match(r"\s*[+-]?\d+", name) for name in names if len(name) == 1 or not name.startswith("0")]
    return sorted({int(number[0]) for number in numbers if number}, reverse=True)[:latest]


@pytest.mark.parametrize(("there", "version"), [("8.bak", 9), ("old", 8), (".9.bak", 8), ("09", 8), ("1x", 8)])
def test_the_new_version_is_the_one_that_triton_loads(tmp_path: Path, there: str, version: int) -> None:
    put(tmp_path, PLAIN)
    for name in ("7", there):
        (tmp_path / "one" / name).mkdir()
    assert put(tmp_path, PLAIN) == version
    assert loaded(tmp_path / "one") == [version]


def test_no_version_is_there_before_it_is_whole(tmp_path: Path) -> None:
    """For the minutes that an export takes, Triton goes on with what it has."""
    for version in (1, 2):
        before = loaded(tmp_path / "one")
        with new_version(tmp_path, PLAIN) as place:
            place.graph.with_name("model.onnx.0123456789abcdef.data").write_text("weights", encoding="utf-8")
            assert loaded(tmp_path / "one") == before
            place.graph.write_text("graph", encoding="utf-8")
            assert loaded(tmp_path / "one") == before
            assert (tmp_path / "one" / "config.pbtxt").exists() == (version == 2)
        assert loaded(tmp_path / "one") == [version]
        assert in_version(place.graph) == tmp_path / "one" / str(version) / "model.onnx"
        assert {file.name for file in in_version(place.graph).parent.iterdir()} == {
            "model.onnx",
            "model.onnx.0123456789abcdef.data",
        }
        assert not place.graph.parent.exists()


@pytest.mark.parametrize("path", ["model.onnx", "a/2/model.onnx", ".2.0123.partial/m.onnx", ".b.01234567.partial/m"])
def test_other_paths_are_those_of_no_version(path: str) -> None:
    assert in_version(Path(path)) == Path(path)


def test_two_at_once_get_two_versions(tmp_path: Path) -> None:
    with new_version(tmp_path, PLAIN) as first, new_version(tmp_path, PLAIN) as second:
        assert (first.version, second.version) == (1, 2)
        for place in (first, second):
            place.graph.touch()
    assert loaded(tmp_path / "one", 9) == [2, 1]
    assert parsed((tmp_path / "one" / "config.pbtxt").read_text(encoding="utf-8")) == model(PLAIN)


def test_two_at_once_that_do_not_fit(tmp_path: Path) -> None:
    other = replace(PLAIN, members=2)
    with (
        pytest.raises(UsageError, match=r"output probs .* instead of member_probs"),
        new_version(tmp_path, other),
    ):
        put(tmp_path, PLAIN)
    assert loaded(tmp_path / "one", 9) == [2]
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"config.pbtxt", "labels.txt", "2"}


def test_a_number_that_somebody_took_meanwhile(tmp_path: Path) -> None:
    put(tmp_path, PLAIN)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "model.onnx").write_text("theirs", encoding="utf-8")
    with pytest.raises(StorageError, match=r"^cannot write .*/one/2: "), new_version(tmp_path, PLAIN):
        theirs.rename(tmp_path / "one" / "2")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"config.pbtxt", "labels.txt", "1", "2"}
    assert (tmp_path / "one" / "2" / "model.onnx").read_text(encoding="utf-8") == "theirs"


def test_what_a_killed_export_left(tmp_path: Path) -> None:
    """It keeps its number for a day, as somebody may be at work there, and disturbs nothing."""
    killed = new_version(tmp_path, PLAIN)
    left = killed.__enter__().graph
    left.write_text("half", encoding="utf-8")
    assert put(tmp_path, PLAIN) == 2
    assert loaded(tmp_path / "one", 9) == [2]
    hours = 3600 * (time.time() // 3600)
    os.utime(left.parent, (hours, hours - 22 * 3600))
    assert put(tmp_path, PLAIN) == 3
    assert left.exists()
    os.utime(left.parent, (hours, hours - 25 * 3600))
    mine = tmp_path / "one" / "old.partial"
    mine.mkdir()
    os.utime(mine, (0, 0))
    assert put(tmp_path, PLAIN) == 4
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        *("config.pbtxt", "labels.txt", "old.partial"),
        *("2", "3", "4"),
    }


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
    assert len(seen[0]) > len(there), "there was something to remove"
    assert listing(tmp_path) == there


def test_a_failure_leaves_what_others_wrote_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fail(tmp_path / "repository", DataError, lambda folder: put(folder, SERVICE))
    assert [p.name for p in (tmp_path / "repository").iterdir()] == ["five"]


def test_a_repository_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "repository").touch()
    with pytest.raises(StorageError, match="cannot write"), new_version(tmp_path / "repository", PLAIN):
        pytest.fail("there is no place")
