"""Which ONNX Runtime provider runs a graph, with which options."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from export.devices import CPU, CUDA, CUDA_OPTIONS, DEVICES, LARGEST_BATCH, TENSORRT, check_device, tensorrt_options
from export.driver import gpu_count
from zoo.errors import UsageError

__all__ = ["WHAT_TO_DO", "Placement", "device_of", "placement", "threads_of"]

_log = logging.getLogger(__name__)

WHAT_TO_DO = "`ensemble doctor` says what is wrong; device cpu, or allow_cpu, runs the graph on the CPU"

_USUAL_BATCH = 64


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
    check_device(device)
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
    cuda = {
        "device_id": str(index),
        **CUDA_OPTIONS,
        # A CUDA graph cannot be recorded of what other providers run parts of.
        "enable_cuda_graph": str(int(device == "cuda" and not allow_cpu)),
        "arena_extend_strategy": "kSameAsRequested",
    }
    providers = [(CUDA, cuda)]
    if device == "tensorrt":
        cache.mkdir(parents=True, exist_ok=True)
        tensorrt = {
            "device_id": str(index),
            "trt_fp16_enable": str(int(precision == "fp16")),
            "trt_int8_enable": str(int(precision == "int8")),
            **tensorrt_options(image, str(cache), usual=_USUAL_BATCH, largest=LARGEST_BATCH),
        }
        providers.insert(0, (TENSORRT, tensorrt))
    return Placement(device, tuple(providers), config)


def _lacks(device: str, index: int) -> str:
    """Return what this machine lacks to run graphs on a device; nothing if it seems to have it all."""
    if DEVICES[device] not in onnxruntime.get_available_providers():
        wheel = "onnxruntime" if device == "cpu" else "onnxruntime-gpu"
        return f"the installed ONNX Runtime has no {DEVICES[device]} (pip install {wheel})"
    return f"the driver finds {gpu_count()} NVIDIA GPUs here" if device != "cpu" and index >= gpu_count() else ""


def threads_of(threads: int | None) -> int:
    """Return how many threads a graph runs on: as many as asked for, or as this process has processors."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: give a number from 1")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return threads or usable or 1
