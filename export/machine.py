"""What a machine has to run graphs with: processor, GPUs, driver, libraries, and which providers really run one."""

import importlib.metadata
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensemble.latency.hardware import Hardware, hardware, read_text, versions
from export.devices import DEVICES
from export.driver import Gpu, cuda_and_gpus, driver_version
from export.trial import apart

__all__ = ["FAST", "Machine", "Trial", "dotted", "fast", "look", "parse_flags"]

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


def dotted(version: tuple[int, int] | None) -> str:
    """Return a version of CUDA, or a compute capability, for people."""
    return "none" if version is None else f"{version[0]}.{version[1]}"


def look() -> Machine:
    """Look at this machine; it takes a few seconds."""
    about = hardware()
    cuda, gpus = cuda_and_gpus()
    said = versions()
    runtime = apart("runtime")
    links: dict[str, str | None] = runtime.get("links", {})
    providers = tuple(runtime["providers"]) if "providers" in runtime else None
    trials = {}
    for device, provider in DEVICES.items():
        if provider not in (providers or ()):
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
        flags=parse_flags(read_text("/proc/cpuinfo")),
        packages=_packages() | ({"torch": said["torch"]} if said["torch"] else {}),
        gpus=gpus,
        cards=_cards(Path("/sys/bus/pci/devices")),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=driver_version(),
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
    vendors = [file for file in folder.glob("*/vendor") if read_text(str(file)).strip() == _NVIDIA]
    return sum(read_text(str(file.with_name("class"))).startswith(_DISPLAY) for file in vendors)
