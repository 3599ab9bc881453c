"""What makes times comparable: the machine, and the versions of what runs on it; none of it imports PyTorch.

(Naming an accelerator does, but whoever has a device to name has imported it.)
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Hardware", "hardware", "parse_cpuinfo", "read_text", "rounding", "versions"]

_FAST = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimddp", "bf16", "i8mm", "sve")
"""Instruction sets that kernels choose between, and that virtual machines hide: a model's name does not tell them."""


@dataclass(frozen=True)
class Hardware:
    """What a machine computes with. Times may be compared, or kept for each other, where two of these are equal.

    Attributes:
        cpu: model, and those of its instruction sets that matter, e.g. `AMD EPYC (25/17/1; avx2, avx512f)`.
        cores: physical ones of the machine.
        processors: logical ones that this process may use at once, by its affinity and its container's quota.
        system: operating system and instruction set, e.g. `Linux x86_64`.
        accelerator: name of the device that is measured, with its memory; None for the CPU.
        driver: the accelerator's, if it is known.
        memory: of the machine, in GiB, if it is known; for people, as it changes no time.
    """

    cpu: str
    cores: int
    processors: float
    system: str
    accelerator: str | None = None
    driver: str | None = None
    memory: float | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Twelve hex digits, the same wherever times are comparable."""
        parts = [getattr(self, part.name) for part in fields(self) if part.compare]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the attributes, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line for people."""
        used = "" if self.processors == self.cores else f" ({self.processors:g} processors to use)"
        parts = [f"{self.cpu}, {self.cores} cores{used}"]
        if self.memory is not None:
            parts.append(f"{self.memory:.0f} GiB")
        if self.accelerator is not None:
            parts.insert(0, self.accelerator + (f", driver {self.driver}" if self.driver else ""))
        return ", ".join([*parts, self.system])


def hardware(device: "torch.device | str" = "cpu") -> Hardware:
    """Return what a device and the machine around it are.

    Args:
        device: what is measured. An accelerator that takes no part is no part of the result either, so that its driver
            may change without a word on the CPU's times.
    """
    cpu, cores = _cpu()
    accelerator, driver = (None, None) if str(device) == "cpu" else _accelerator(str(device))
    system = f"{platform.system()} {platform.machine()}"
    return Hardware(cpu, cores, _processors(cores), system, accelerator, driver, _memory())


def versions() -> dict[str, str | None]:
    """Return the versions of what runs networks, None for what is not installed."""
    return {
        "menagerie": _version("menagerie"),
        "python": platform.python_version(),
        "torch": _torch_version(),
        "onnxruntime": _version("onnxruntime-gpu") or _version("onnxruntime"),
    }


def rounding(about: Hardware) -> str:
    """Return twelve hex digits, the same wherever a network rounds alike: on such hardware, with these versions."""
    return hashlib.sha256(json.dumps([about.key, versions()], sort_keys=True).encode()).hexdigest()[:12]


def parse_cpuinfo(text: str) -> tuple[str, int]:
    """Return model and number of physical cores (0 if it does not say) of a Linux `/proc/cpuinfo`.

    x86 has a block for each logical processor, with `physical id` and `core id`; Arm names neither, nor a model, but
    the numbers of implementer and part.
    """
    blocks = [dict(re.findall(r"^([^\n\t:]+?)[ \t]*:[ \t]*(.*)$", block, re.MULTILINE)) for block in text.split("\n\n")]
    blocks = [block for block in blocks if "processor" in block]
    if not blocks:
        return "", 0
    about = blocks[0]
    numbers = [about[name] for name in ("cpu family", "model", "stepping") if name in about]
    arm = sorted({f"{b['CPU implementer']}-{b.get('CPU part', '')}" for b in blocks if "CPU implementer" in b})
    name = about.get("model name") or f"Arm {' '.join(arm)}".rstrip()
    flags = set((about.get("flags") or about.get("Features") or "").split())
    details = [part for part in ("/".join(numbers), ", ".join(f for f in _FAST if f in flags)) if part]
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    return name + (f" ({'; '.join(details)})" if details else ""), len(cores)


def read_text(path: str) -> str:
    """Return the text of a file, or nothing if it cannot be read: other systems have no such files."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu() -> tuple[str, int]:
    """Return the CPU's model and how many physical cores there are."""
    name, cores = "", 0
    if sys.platform.startswith("linux"):
        name, cores = parse_cpuinfo(read_text("/proc/cpuinfo"))
    elif sys.platform == "darwin":
        name, cores = _sysctl("machdep.cpu.brand_string"), int(_sysctl("hw.physicalcpu") or 0)
    return name or platform.processor() or "unknown CPU", cores or os.cpu_count() or 1


def _processors(cores: int) -> float:
    """Return how many logical processors this process may keep busy."""
    everywhere = not hasattr(os, "sched_getaffinity")  # macOS and Windows do not tell
    allowed = os.cpu_count() or cores if everywhere else len(os.sched_getaffinity(0))
    quota, period = (read_text("/sys/fs/cgroup/cpu.max").split() or ["max", "1"])[:2]  # control groups, version 2
    if quota == "max":  # or version 1, where no quota is -1
        quota = read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip() or "-1"
        period = read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip() or "1"
    share = float(quota) / float(period)
    return min(float(allowed), share) if share > 0 else float(allowed)


def _memory() -> float | None:
    """Return the machine's memory in GiB."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):  # Windows has no such function, others have other names
        return None


def _accelerator(device: str) -> tuple[str, str | None]:
    """Return name and driver of an accelerator."""
    import torch  # noqa: PLC0415  # only this needs it

    where = torch.device(device)
    if where.type != "cuda":
        module = torch.get_device_module(where)
        return str(module.get_device_name(where) if hasattr(module, "get_device_name") else where.type), None
    about = torch.cuda.get_device_properties(where)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB", None if torch.version.hip else _nvidia_driver()


def _nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver; of every GPU in a machine it is the same."""
    found = re.search(
        r"Kernel Module\D*?(?:x86_64|aarch64)?\s+(\d+(?:\.\d+)+)", read_text("/proc/driver/nvidia/version")
    )
    if found:
        return found[1]
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return next(iter(_output(words).split()), None)


def _torch_version() -> str | None:
    """Return PyTorch's version with its build (`2.9.0+cu128`), which the package's metadata leaves out."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    said = re.search(
        r"^__version__ = '([^']+)'", read_text(str(Path(found.origin).parent / "version.py")), re.MULTILINE
    )
    return said[1] if said else _version("torch")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sysctl(name: str) -> str:
    return _output(["sysctl", "-n", name]).strip()


def _output(words: list[str]) -> str:
    """Return what a program prints, or nothing if it is not there or fails."""
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
