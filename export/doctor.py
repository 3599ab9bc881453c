"""What keeps a machine from running graphs, and what to do about it: rules over what `export.machine.look` found."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from export.devices import CUDA, TENSORRT, check_device
from export.machine import Machine, dotted

__all__ = ["DRIVERS", "Finding", "best_device", "diagnose", "works"]

DRIVERS = {11: 450, 12: 525, 13: 580}
"""CUDA's major version -> the first driver that runs it.

https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""

_OLDEST = {12: (5, 0), 13: (7, 5)}
"""CUDA's major version -> the lowest compute capability that it still compiles for."""

_WITH_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
_REQUIREMENTS = "https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#requirements"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        what: in a line.
        remedy: what to do, in a line.
    """

    what: str
    remedy: str


def best_device(machine: Machine) -> str:
    """Return the device that graphs run on unless somebody says so: cuda if there is a GPU, else cpu."""
    return "cuda" if machine.gpus else "cpu"


def works(machine: Machine, device: str) -> bool:
    """Say whether graphs run on a device."""
    return device in machine.trials and machine.trials[device].works


def diagnose(machine: Machine, device: str | None = None) -> list[Finding]:
    """Return what is wrong, what has to be mended first at first.

    Args:
        machine: as it was found.
        device: that graphs are to run on, one of `export.devices.DEVICES` [default: `best_device`].

    Raises:
        UsageError: there is no such device.
    """
    if device is not None:
        check_device(device, what="--device")
    asked = device or best_device(machine)
    found = list(chain(_package(machine), _card(machine, asked)))
    if machine.providers is not None and machine.gpus:
        found += chain(_built(machine), _driver(machine), _libraries(machine), _tensorrt(machine, asked))
    if not works(machine, asked) and not found:
        trial = machine.trials.get(asked)
        reason = trial.reason if trial and trial.reason else "a graph does not run, and nothing says why"
        found.append(Finding(f"{asked}: {reason}", f"compare what is installed with {_REQUIREMENTS}"))
    return found


def _wheel(machine: Machine) -> str:
    """Return the package that has ONNX Runtime for a machine."""
    return "onnxruntime-gpu" if machine.gpus or machine.cards else "onnxruntime"


def _package(machine: Machine) -> Iterator[Finding]:
    """Look at ONNX Runtime's packages."""
    here = {name: version for name, version in machine.packages.items() if re.fullmatch("onnxruntime(-.+)?", name)}
    said = " and ".join(f"{name} {version}" for name, version in here.items())
    if len(here) > 1:
        wheel = "onnxruntime-gpu" if "onnxruntime-gpu" in here else _wheel(machine)
        yield Finding(
            f"{said} are both installed, and overwrite each other's files",
            f"pip uninstall -y {' '.join(here)} && pip install {wheel}",
        )
    elif not here and machine.providers is None:
        yield Finding("ONNX Runtime is not installed", f"pip install {_wheel(machine)}")
    elif machine.providers is None:
        yield Finding(
            f"{said} cannot be imported: {machine.broken}",
            f"pip install --force-reinstall {next(iter(here))}",
        )


def _card(machine: Machine, asked: str) -> Iterator[Finding]:
    """Look for a GPU."""
    if machine.gpus:
        return
    hidden = machine.visible is not None and not re.match(r"\s*\d|\s*GPU-|\s*MIG-", machine.visible)
    if hidden and (machine.driver or machine.cards):
        yield Finding(f"CUDA_VISIBLE_DEVICES={machine.visible!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    elif machine.cards and machine.driver_cuda is None:
        cards = "is an NVIDIA card" if machine.cards == 1 else f"are {machine.cards} NVIDIA cards"
        yield Finding(
            f"there {cards}, and no driver",
            "install NVIDIA's driver (https://www.nvidia.com/drivers); start a container with --gpus all",
        )
    elif machine.driver or machine.cards:
        number = f" {machine.driver}" if machine.driver else ""
        chosen = "" if machine.visible is None else f" (CUDA_VISIBLE_DEVICES={machine.visible!r})"
        yield Finding(
            f"NVIDIA's driver{number} finds no GPU{chosen}",
            "look at what `nvidia-smi` and `dmesg` say; start a container with --gpus all",
        )
    elif asked != "cpu":
        yield Finding(f"--device {asked}: there is no NVIDIA GPU", "give --device cpu, or use a machine that has one")


def _built(machine: Machine) -> Iterator[Finding]:
    """Look at what ONNX Runtime was built for."""
    if CUDA not in (machine.providers or ()):
        here = [name for name in machine.packages if name.startswith("onnxruntime")]
        yield Finding(
            f"there is a GPU ({machine.gpus[0].name}), and the installed ONNX Runtime has no CUDA",
            f"pip uninstall -y {' '.join(here) or 'onnxruntime'} && {_WITH_LIBRARIES}",
        )


def _driver(machine: Machine) -> Iterator[Finding]:
    """Hold driver and GPUs to the CUDA that ONNX Runtime needs."""
    if machine.runtime_cuda is None:
        return
    needs = machine.runtime_cuda[0]
    older = f"or an ONNX Runtime for an older CUDA: {_REQUIREMENTS}"
    if machine.driver_cuda is not None and machine.driver_cuda[0] < needs:
        least = f" to {DRIVERS[needs]} or newer" if needs in DRIVERS else ""
        yield Finding(
            f"ONNX Runtime needs CUDA {dotted(machine.runtime_cuda)}, and the driver {machine.driver or ''} runs "
            f"CUDA up to {dotted(machine.driver_cuda)}".replace("  ", " "),
            f"update the driver{least}, {older}",
        )
    old = next((gpu for gpu in machine.gpus if gpu.capability < _OLDEST.get(needs, (0, 0))), None)
    if old is not None:
        yield Finding(
            f"{old.name} has compute capability {dotted(old.capability)}, and CUDA {needs} begins at "
            f"{dotted(_OLDEST[needs])}",
            f"use a newer GPU, {older}",
        )


def _libraries(machine: Machine) -> Iterator[Finding]:
    """Look at the libraries of CUDA and cuDNN."""
    if machine.runtime_cuda is None or CUDA not in (machine.providers or ()):
        return
    needs, torch = machine.runtime_cuda[0], machine.torch_cuda
    missing = (machine.links.get("cuda") or "").partition(":")[0]
    if not missing and not any(name.startswith("libcudnn.so") for name in machine.libraries):
        missing = "" if works(machine, "cuda") else "cuDNN"
    if torch is not None and torch[0] != needs:
        yield Finding(
            f"ONNX Runtime is built for CUDA {dotted(machine.runtime_cuda)} and PyTorch for {dotted(torch)}"
            + (f": {missing} is missing" if missing else ": a process that has both loads one's cuDNN for the other"),
            f"install PyTorch for CUDA {needs} (https://pytorch.org/get-started/locally)"
            + (f", or {_WITH_LIBRARIES}" if missing else ""),
        )
    elif missing:
        others = sorted(
            {found[1] for name in machine.packages if (found := re.search(r"-cu(\d+)$", name))} - {str(needs)}
        )
        have = f"; the libraries here are of CUDA {', '.join(others)}" if others else ""
        yield Finding(f"{missing} is missing, for ONNX Runtime on CUDA {needs}{have}", _WITH_LIBRARIES)


def _tensorrt(machine: Machine, asked: str) -> Iterator[Finding]:
    """Look at TensorRT, if somebody wants it."""
    if asked != "tensorrt" or works(machine, "tensorrt"):
        return
    if TENSORRT not in (machine.providers or ()):
        yield Finding("the installed ONNX Runtime has no TensorRT", "use --device cuda, or pip install onnxruntime-gpu")
        return
    found = re.match(r"(libnv\w+\.so\.(\d+))", machine.links.get("tensorrt") or "")
    if found is not None:
        cuda = machine.runtime_cuda[0] if machine.runtime_cuda else 12
        package = f"tensorrt-cu{cuda}"
        yield Finding(
            f"{found[1]} of TensorRT is missing",
            f"pip install '{package}=={found[2]}.*', and put its folder tensorrt_libs on LD_LIBRARY_PATH",
        )
