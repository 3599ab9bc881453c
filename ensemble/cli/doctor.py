"""`ensemble doctor`: what this machine runs graphs with, and what is wrong."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from zoo.cli.group import one_line
from zoo.cli.types import TEXT

if TYPE_CHECKING:
    from export.machine import Machine

__all__ = ["command"]

_WIDTH = 12


@click.command("doctor")
@click.option("--device", type=TEXT, help="That graphs are to run on: cpu, cuda, tensorrt [default: the best].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of lines.")
def command(*, device: str | None, as_json: bool) -> int:
    """Say what this machine has to run graphs with, which of it works, and what is wrong.

    On each device a tiny graph is run, in a process of its own. The exit code is 0 if it ran on the device asked for,
    and 1 if not; other things may be wrong even so.

    \b
      ensemble doctor
      ensemble doctor --device cuda --json
    """
    from export.devices import check_device
    from export.doctor import best_device, diagnose, works
    from export.machine import look

    if device is not None:  # before looking, which takes seconds
        check_device(device, what="--device")
    machine = look()
    asked = device or best_device(machine)
    findings, fine = diagnose(machine, device), works(machine, asked)
    if as_json:
        wrong = [{"what": one.what, "remedy": one.remedy} for one in findings]
        click.echo(json.dumps({"device": asked, "works": fine, "wrong": wrong, **machine.to_dict()}, indent=1))
        return 0 if fine else 1
    for name, text in _lines(machine):
        click.echo(one_line(f"{name:<{_WIDTH}}{text}"))
    click.echo("")
    if findings:
        click.echo("what is wrong:")
    for one in findings:
        click.echo(one_line(f"- {one.what}"))
        click.echo(one_line(f"  {one.remedy}"))
    click.echo(f"graphs {'run' if fine else 'do not run'} on {asked}")
    return 0 if fine else 1


def _lines(machine: "Machine") -> Iterator[tuple[str, str]]:
    """Yield what there is, as names and texts."""
    from export.devices import DEVICES
    from export.machine import dotted, fast

    packages = dict(machine.packages)
    libraries = {name: packages.pop(name) for name in machine.packages if name.startswith(("nvidia-", "tensorrt"))}
    yield "python", f"{machine.python}, {machine.hardware.system}"
    yield "packages", _versions(packages)
    yield "processor", str(machine.hardware)
    yield "", _quick(fast(machine.flags))
    for number, gpu in enumerate(machine.gpus):
        capability = ".".join(map(str, gpu.capability))
        yield f"GPU {number}", f"{gpu.name}, {gpu.memory:.0f} GiB, compute capability {capability}"
    if not machine.gpus:
        yield "GPU", f"none, of {machine.cards} NVIDIA cards" if machine.cards else "none"
    if machine.driver_cuda:
        yield "driver", f"{machine.driver or 'of an unknown version'}, for CUDA up to {dotted(machine.driver_cuda)}"
    yield (
        "CUDA",
        f"ONNX Runtime is built for {dotted(machine.runtime_cuda)}, PyTorch for {dotted(machine.torch_cuda)}",
    )
    if libraries:
        yield "", _versions(libraries)
    for name, path in sorted(machine.libraries.items()):
        yield "", f"{name}  {path}"
    for device, trial in machine.trials.items():
        yield device, "runs graphs" if trial.works else f"runs no graphs: {trial.reason or machine.broken}"
    others = [name for name in machine.providers or () if name not in DEVICES.values()]
    if others:
        yield "providers", f"built in, and not used: {', '.join(others)}"


def _quick(found: dict[str, str]) -> str:
    """Return what a processor computes faster than fp32, and which of it ONNX Runtime makes use of.

    Args:
        found: precision -> instruction set, as `export.machine.fast` gives them.
    """
    each = [f"{precision} ({name})" for precision, name in found.items()]
    said = f"faster than in fp32: {', '.join(each) or 'nothing that it tells of'}"
    if "bf16" not in found:
        return said
    if found["bf16"] == "Arm":
        return f"{said}; ONNX Runtime multiplies the matrices of fp32 graphs in bf16 here"
    return f"{said}; ONNX Runtime computes no bf16 on x86 CPUs: int8 is its fast precision here"


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
