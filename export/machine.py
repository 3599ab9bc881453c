"""What a machine has to run graphs with: processor, GPUs, driver, libraries, and which providers really run one."""

import ctypes
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensemble.latency.hardware import Hardware, hardware, versions
from export.trial import apart

__all__ = ["FAST", "Gpu", "Machine", "Trial", "fast", "look", "parse_flags"]

FAST = {
    "int8": {
        "amx_int8": "AMX",
        "avx512_vnni": "AVX-512 VNNI",
        "avx_vnni": "AVX VNNI",
        "i8mm": "I8MM",
        "asimddp": "DOT",
    },
    "bf16": {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "Arm"},
    "fp16": {"amx_fp16": "AMX", "avx512_fp16": "AVX-512", "asimdhp": "Arm"},
}
"""Precision -> the flags of processors that compute faster in it than in fp32, the fastest first, and their names."""

_PACKAGES = re.compile(
    r"menagerie|torch|onnx|onnxscript|onnxruntime.*|ray|tensorrt.*|numpy"
    r"|nvidia-(cuda-runtime|cuda-nvrtc|cudnn|cublas|cufft|curand|nvjitlink)(-cu\d+)?"
)
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # of PCI's classes, as `0x030200`


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


@dataclass(frozen=True)
class Trial:
    """Whether a tiny graph ran on a device.

    Attributes:
        works: whether it did, and gave probabilities.
        reason: why not, in a line; None if it did.
    """

    works: bool
    reason: str | None = None


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        python: its version.
        hardware: processor and memory.
        flags: of the processor.
        packages: name -> version of what runs graphs, of those that are installed.
        gpus: that the driver finds.
        cards: NVIDIA's on the bus, whether there is a driver or not.
        visible: `CUDA_VISIBLE_DEVICES`, if it is set.
        driver: NVIDIA's version.
        driver_cuda: the newest CUDA that the driver runs.
        runtime_cuda: CUDA that ONNX Runtime was built for; None for none.
        torch_cuda: CUDA that PyTorch was built for; None for none.
        providers: of ONNX Runtime, built in; None if it cannot be imported.
        broken: why it cannot be imported.
        links: device -> what is missing for its provider to load, as the linker says it; None if nothing is.
        libraries: name of a file of CUDA, cuDNN or TensorRT that loads -> its path.
        trials: device -> whether a graph ran.
    """

    python: str
    hardware: Hardware
    flags: frozenset[str]
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    cards: int
    visible: str | None
    driver: str | None
    driver_cuda: tuple[int, int] | None
    runtime_cuda: tuple[int, int] | None
    torch_cuda: tuple[int, int] | None
    providers: tuple[str, ...] | None
    broken: str | None
    links: Mapping[str, str | None]
    libraries: Mapping[str, str]
    trials: Mapping[str, Trial]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        table = {**asdict(self), "fast": fast(self.flags)}
        del table["flags"]
        return table


def fast(flags: frozenset[str]) -> dict[str, str]:
    """Return precision -> instruction set, for what a processor with such flags computes faster than fp32."""
    found = {}
    for precision, sets in FAST.items():
        name = next((name for flag, name in sets.items() if flag in flags), None)
        if name is not None:
            found[precision] = name
    return found


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of a Linux `/proc/cpuinfo`, of x86 or Arm; empty where it has none."""
    found = re.search(r"^(?:flags|Features)[ \t]*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def look() -> Machine:
    """Look at this machine; it takes a few seconds."""
    about = hardware()
    cuda, gpus = _gpus()
    said = versions()
    runtime = apart("runtime")
    links: dict[str, str | None] = runtime.get("links", {})
    providers = tuple(runtime["providers"]) if "providers" in runtime else None
    trials = {}
    for device, provider in (("cpu", "CPU"), ("cuda", "CUDA"), ("tensorrt", "Tensorrt")):
        if f"{provider}ExecutionProvider" not in (providers or ()):
            trials[device] = Trial(works=False, reason="ONNX Runtime was built without it" if providers else None)
        elif device != "cpu" and not gpus:
            trials[device] = Trial(works=False, reason=links.get(device) or "there is no GPU")
        else:
            ran = apart("run_trial", device)
            trials[device] = Trial(ran.get("works") is True, ran.get("reason"))
    torch_cuda = re.search(r"\+cu(\d+)(\d)$", said["torch"] or "")
    return Machine(
        python=str(said["python"]),
        hardware=about,
        flags=parse_flags(_read("/proc/cpuinfo")),
        packages=_packages() | ({"torch": said["torch"]} if said["torch"] else {}),
        gpus=gpus,
        cards=_cards(Path("/sys/bus/pci/devices")),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=_driver(),
        driver_cuda=cuda,
        runtime_cuda=_version(runtime.get("cuda") or ""),
        torch_cuda=(int(torch_cuda[1]), int(torch_cuda[2])) if torch_cuda else None,
        providers=providers,
        broken=runtime.get("reason"),
        links=links,
        libraries=runtime.get("libraries", {}),
        trials=trials,
    )


def _version(text: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _read(path: str) -> str:
    """Return the text of a file, or nothing if it cannot be read: other systems have no such files."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _packages() -> dict[str, str]:
    """Return name -> version of the packages that matter, sorted."""
    found = {}
    for one in importlib.metadata.distributions():
        name = (one.metadata["Name"] or "").lower().replace("_", "-")
        if _PACKAGES.fullmatch(name):
            found[name] = one.version
    return dict(sorted(found.items()))


def _cards(folder: Path) -> int:
    """Return how many display adapters of NVIDIA's are on the bus, as Linux lists it; 0 elsewhere."""
    vendors = [file for file in folder.glob("*/vendor") if _read(str(file)).strip() == _NVIDIA]
    return sum(_read(str(file.with_name("class"))).startswith(_DISPLAY) for file in vendors)


def _library(*names: str) -> Any | None:  # noqa: ANN401  # what it has, it does not say
    """Return the library of NVIDIA's driver, by its name on Windows and elsewhere; None if it is not there."""
    try:
        return ctypes.CDLL(names[sys.platform != "win32"])
    except OSError:
        return None


def _gpus() -> tuple[tuple[int, int] | None, tuple[Gpu, ...]]:
    """Return the newest CUDA that the driver runs, None without a driver, and its GPUs.

    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    cuda = _library("nvcuda.dll", "libcuda.so.1")
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None, ()
    newest = (number.value // 1000, number.value % 1000 // 10)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return newest, ()
    found = []
    for index in range(count.value):
        device, name, size = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        numbers = [ctypes.c_int(0), ctypes.c_int(0)]
        for value, attribute in zip(numbers, (75, 76), strict=True):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability = (numbers[0].value, numbers[1].value)
        found.append(Gpu(name.value.decode(errors="replace"), size.value / 2**30, capability))
    return newest, tuple(found)


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, None without one.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlSystemQueries.html
    """
    nvml = _library("nvml.dll", "libnvidia-ml.so.1")
    text = ctypes.create_string_buffer(96)
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return None
    known = nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
    nvml.nvmlShutdown()
    return text.value.decode(errors="replace") if known else None
