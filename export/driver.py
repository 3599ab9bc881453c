"""NVIDIA's driver, asked through the libraries that it brings: nothing of CUDA has to be installed for it.

https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
https://docs.nvidia.com/deploy/nvml-api/group__nvmlSystemQueries.html
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "cuda_and_gpus", "driver_version", "gpu_count"]

_CUDA = ("nvcuda.dll", "libcuda.so.1")
_NVML = ("nvml.dll", "libnvidia-ml.so.1")
"""Names on Windows and elsewhere."""

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR}


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it.

    Attributes:
        name: e.g. `NVIDIA H100 80GB HBM3`.
        memory: in GiB.
        capability: of computing, e.g. (9, 0).
    """

    name: str
    memory: float
    capability: tuple[int, int]


def gpu_count() -> int:
    """Return how many NVIDIA GPUs the driver has; 0 without a driver."""
    cuda = _library(_CUDA)
    return 0 if cuda is None else _count(cuda)


def cuda_and_gpus() -> tuple[tuple[int, int] | None, tuple[Gpu, ...]]:
    """Return the newest CUDA that the driver runs, None without a driver, and its GPUs."""
    cuda, number = _library(_CUDA), ctypes.c_int(0)
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None, ()
    newest = (number.value // 1000, number.value % 1000 // 10)
    return newest, tuple(_gpu(cuda, index) for index in range(_count(cuda)))


def driver_version() -> str | None:
    """Return the version of the driver, None without one."""
    nvml, text = _library(_NVML), ctypes.create_string_buffer(96)
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return None
    known = nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
    nvml.nvmlShutdown()
    return text.value.decode(errors="replace") if known else None


def _library(names: tuple[str, str]) -> Any | None:  # noqa: ANN401  # what it has, it does not say
    """Return a library of the driver's; None if it is not there."""
    try:
        return ctypes.CDLL(names[sys.platform != "win32"])
    except OSError:
        return None


def _count(cuda: Any) -> int:  # noqa: ANN401  # as above
    """Return how many GPUs there are; 0 if the driver fails."""
    count = ctypes.c_int(0)
    failed = cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0
    return 0 if failed else count.value


def _gpu(cuda: Any, index: int) -> Gpu:  # noqa: ANN401  # as above
    """Return a GPU's description."""
    device, name, size = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    for value, attribute in zip((major, minor), _CAPABILITY, strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Gpu(name.value.decode(errors="replace"), size.value / 2**30, (major.value, minor.value))
