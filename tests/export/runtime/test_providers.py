"""Which provider a graph gets: the one asked for, or an error that says why not."""

import logging
import os
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from export.devices import CPU, CUDA, DEVICES, TENSORRT
from export.runtime import providers
from export.runtime.providers import WHAT_TO_DO, placement, threads_of
from zoo.errors import UsageError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    """Return a function that says how many GPUs there are, and what ONNX Runtime was built with."""

    def be(gpus: int, *built: str) -> None:
        monkeypatch.setattr(providers, "gpu_count", lambda: gpus)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*built, CPU])

    return be


def place(device: str | None, folder: Path, **more: Any) -> providers.Placement:  # noqa: ANN401
    return placement(device, **{"precision": "fp32", "cache": folder / "cache", "image": (32, 48), **more})


def test_the_cpu(machine: Any, tmp_path: Path) -> None:  # noqa: ANN401
    machine(1, TENSORRT, CUDA)
    where = place("cpu", tmp_path)
    assert (where.device, where.provider, where.providers) == ("cpu", CPU, ((CPU, {}),))
    assert "session.set_denormal_as_zero" not in where.config  # it would change the arithmetic of the calling thread
    assert "session.disable_cpu_ep_fallback" not in where.config
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_by_default_it_is_the_gpu_if_there_is_one(machine: Any, tmp_path: Path, gpus: int, device: str) -> None:  # noqa: ANN401
    machine(gpus, TENSORRT, CUDA)
    assert place(None, tmp_path).device == device


def test_a_gpu_without_the_wheel_for_it_is_no_cpu_by_default(machine: Any, tmp_path: Path) -> None:  # noqa: ANN401
    machine(1)
    with pytest.raises(UsageError, match=r"^device 'cuda': the installed ONNX Runtime has no CUDA"):
        place(None, tmp_path)


def test_cuda(machine: Any, tmp_path: Path) -> None:  # noqa: ANN401
    machine(2, CUDA)
    where = place("cuda", tmp_path, index=1)
    ((name, options),) = where.providers
    assert (name, where.provider) == (CUDA, CUDA)
    assert {key: options[key] for key in ("device_id", "prefer_nhwc", "enable_cuda_graph", "use_tf32")} == {
        "device_id": "1",
        "prefer_nhwc": "1",
        "enable_cuda_graph": "1",
        "use_tf32": "0",
    }
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert where.config["session.disable_cpu_ep_fallback"] == "1"
    assert "session.disable_cpu_ep_fallback" not in place("cuda", tmp_path, allow_cpu=True).config


@pytest.mark.parametrize(("precision", "fp16", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "0", "1")])
def test_tensorrt(machine: Any, tmp_path: Path, precision: str, fp16: str, int8: str) -> None:  # noqa: ANN401
    machine(1, TENSORRT, CUDA)
    where = place("tensorrt", tmp_path, precision=precision)
    assert [name for name, _ in where.providers] == [TENSORRT, CUDA]
    options = dict(where.providers)[TENSORRT]
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)
    assert options["trt_engine_cache_path"] == str(tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()
    shapes = {key: options[f"trt_profile_{key}_shapes"] for key in ("min", "opt", "max")}
    assert shapes == {"min": "images:1x32x48x3", "opt": "images:64x32x48x3", "max": "images:4096x32x48x3"}


@pytest.mark.parametrize(
    ("gpus", "built", "device", "index", "lacks"),
    [
        (0, (), "cuda", 0, "the installed ONNX Runtime has no CUDAExecutionProvider (pip install onnxruntime-gpu)"),
        (
            1,
            (CUDA,),
            "tensorrt",
            0,
            "the installed ONNX Runtime has no TensorrtExecutionProvider (pip install onnxruntime-gpu)",
        ),
        (0, (TENSORRT, CUDA), "cuda", 0, "the driver finds 0 NVIDIA GPUs here"),
        (0, (TENSORRT, CUDA), "tensorrt", 0, "the driver finds 0 NVIDIA GPUs here"),
        (2, (TENSORRT, CUDA), "cuda", 2, "the driver finds 2 NVIDIA GPUs here"),
    ],
)
def test_what_is_not_there_is_an_error_or_on_request_the_cpu(
    machine: Any,  # noqa: ANN401
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    gpus: int,
    built: tuple[str, ...],
    device: str,
    index: int,
    lacks: str,
) -> None:
    machine(gpus, *built)
    with pytest.raises(UsageError) as no:
        place(device, tmp_path, index=index)
    assert str(no.value) == f"device {device!r}: {lacks}: {WHAT_TO_DO}"
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        where = place(device, tmp_path, index=index, allow_cpu=True)
    assert (where.device, where.provider) == ("cpu", CPU)
    assert caplog.messages == [f"{lacks}: running on the CPU instead of {device}"]


def test_an_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^unknown device 'gpu'; there are cpu, cuda, tensorrt$"):
        place("gpu", tmp_path)
    assert list(DEVICES) == ["cpu", "cuda", "tensorrt"]


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert (threads_of(None), threads_of(7)) == (3, 7)
    for wrong in (0, -1):
        with pytest.raises(UsageError, match=f"^threads {wrong}: give a number from 1$"):
            threads_of(wrong)
