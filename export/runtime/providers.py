"""Which ONNX Runtime provider runs a graph, with which options."""

import ctypes
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from zoo.errors import UsageError

__all__ = [
    "CPU",
    "CUDA",
    "DEVICES",
    "LARGEST_BATCH",
    "TENSORRT",
    "WHAT_TO_DO",
    "Placement",
    "device_of",
    "gpu_count",
    "placement",
    "threads_of",
]

_log = logging.getLogger(__name__)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
DEVICES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""What people call a device -> the provider that runs on it."""

WHAT_TO_DO = "`ensemble doctor` says what is wrong; device cpu, or allow_cpu, runs the graph on the CPU"

LARGEST_BATCH = 4096
"""Images in the largest batch that TensorRT's engines and CUDA graphs are made for; larger ones run in parts."""


@dataclass(frozen=True)
class Placement:
    """Where a graph is to run.

    Attributes:
        device: a key of `DEVICES`.
        providers: for `onnxruntime.InferenceSession`: pairs of name and options, the one asked for first.
        config: entries of the session's configuration.
    """

    device: str
    providers: tuple[tuple[str, dict[str, str]], ...]
    config: dict[str, str]

    @property
    def provider(self) -> str:
        """Name of the provider that must run the graph."""
        return self.providers[0][0]


def device_of(device: str | None, *, index: int = 0, allow_cpu: bool = False) -> str:
    """Return the device that graphs run on, a key of `DEVICES`; arguments and errors are those of `placement`."""
    if device is None:
        device = "cuda" if gpu_count() else "cpu"
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; there are {', '.join(DEVICES)}")
    lacks = _lacks(device, index)
    if lacks and (device == "cpu" or not allow_cpu):
        raise UsageError(f"device {device!r}: {lacks}: {WHAT_TO_DO}")
    if lacks:
        _log.warning("%s: running on the CPU instead of %s", lacks, device)
        return "cpu"
    return device


def placement(
    device: str | None, *, precision: str, cache: Path, image: tuple[int, int], index: int = 0, allow_cpu: bool = False
) -> Placement:
    """Return where a graph runs.

    Args:
        device: a key of `DEVICES` [default: cuda if the machine has an NVIDIA GPU, else cpu].
        precision: of the graph.
        cache: folder for TensorRT's engines, which take minutes to build.
        image: (H, W) of the graph's images.
        index: of the GPU.
        allow_cpu: whether nodes that the provider cannot run may run on the CPU.

    Raises:
        UsageError: there is no such device, or not on this machine and with the installed ONNX Runtime.
    """
    device = device_of(device, index=index, allow_cpu=allow_cpu)
    config = {
        "mlas.enable_gemm_fastmath_arm64_bfloat16": "1",  # the CPUs of other makers do not know it
    }
    if device == "cpu":
        return Placement(device, ((CPU, {}),), config)
    if not allow_cpu:
        config["session.disable_cpu_ep_fallback"] = "1"
    # A CUDA graph cannot be recorded of what other providers run parts of.
    providers = [(CUDA, _cuda(index, graphs=device == "cuda" and not allow_cpu))]
    if device == "tensorrt":
        providers.insert(0, (TENSORRT, _tensorrt(index, precision, cache, image)))
    return Placement(device, tuple(providers), config)


def _lacks(device: str, index: int) -> str:
    """Return what this machine lacks to run graphs on a device; nothing if it seems to have it all."""
    if DEVICES[device] not in onnxruntime.get_available_providers():
        wheel = "onnxruntime" if device == "cpu" else "onnxruntime-gpu"
        return f"the installed ONNX Runtime has no {DEVICES[device]} (pip install {wheel})"
    return f"the driver finds {gpu_count()} NVIDIA GPUs here" if device != "cpu" and index >= gpu_count() else ""


def _cuda(index: int, *, graphs: bool) -> dict[str, str]:
    """Return options of the CUDA provider.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
    """
    return {
        "device_id": str(index),
        "prefer_nhwc": "1",  # the layout of tensor cores
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": str(int(graphs)),
        "use_tf32": "0",  # fp32 is fp32, as the gate measured it
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt(index: int, precision: str, cache: Path, image: tuple[int, int]) -> dict[str, str]:
    """Return options of the TensorRT provider.

    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    cache.mkdir(parents=True, exist_ok=True)
    height, width = image
    shapes = {"min": 1, "opt": 64, "max": LARGEST_BATCH}
    return {
        "device_id": str(index),
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_int8_enable": str(int(precision == "int8")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        **{f"trt_profile_{key}_shapes": f"images:{n}x{height}x{width}x3" for key, n in shapes.items()},
    }


def gpu_count() -> int:
    """Return how many NVIDIA GPUs the driver has; 0 without a driver."""
    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def threads_of(threads: int | None) -> int:
    """Return how many threads a graph runs on: as many as asked for, or as this process has processors."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: give a number from 1")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return threads or usable or 1
