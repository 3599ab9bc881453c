"""Exported graphs beside PyTorch: batches a second on one machine in one run.

    python -m benchmarks.graphs                       # five fastnets with flip, on the CPU, 2 threads; ten minutes
    python -m benchmarks.graphs --members fastnet-seed1 --tta none

Contenders, each in a process of its own, in turns; who comes first changes from round to round:

- `eager fp32`, `eager bf16`: the committee as `ensemble.load` gives it, in channels-last; bf16 by autocast;
- `frozen fp32`, `frozen bf16`: `ensemble.freeze` of it, our fastest PyTorch;
- `graph fp32`, `graph int8`: what `ensemble export` writes, in `export.runtime.Session`.

All keep freed memory (`zoo.allocator`), which helps PyTorch and not the graphs. Times are from uint8 images to
probabilities, medians of warm runs; a ratio is between two contenders of the same round, and the median of the rounds
is what counts. What the int8 graph loses in accuracy is what the export's own gate prints.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ensemble
from ensemble.latency.measure import measure, shuffled_batches
from ensemble.lockfile import Committee, lockfile_text
from ensemble.members import parse_members
from ensemble.module import Ensemble
from export.pipeline import Order, export
from export.runtime import open_session
from tta.freeze import Setting
from zoo.allocator import keep_freed_memory
from zoo.data import load_split
from zoo.data.calibration import load_calibration

CONTENDERS = ("eager fp32", "eager bf16", "frozen fp32", "frozen bf16", "graph fp32", "graph int8")
RATIOS = (
    ("graph fp32", "eager fp32"),
    ("graph fp32", "frozen fp32"),
    ("graph int8", "graph fp32"),
    ("graph int8", "eager bf16"),
    ("graph int8", "frozen bf16"),
)
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

Run = Callable[[Tensor], object]


class ChannelsLast(Ensemble):
    """A committee whose networks see images in channels-last."""

    def planes(self, images: Tensor) -> Tensor:
        return super().planes(images).contiguous(memory_format=torch.channels_last)


def eager(committee: Ensemble, precision: str) -> Run:
    """Return what runs a committee as it is, in channels-last."""
    committee.__class__ = ChannelsLast
    committee.to(memory_format=torch.channels_last)

    def run(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            probs: Tensor = committee(images)
        return probs

    return run


def build(name: str, arguments: argparse.Namespace) -> Run:
    """Return what a contender runs on uint8 `[N, H, W, 3]`."""
    kind, precision = name.split()
    if kind == "graph":
        session = open_session(arguments.folder / f"{precision}.onnx", device="cpu", threads=arguments.threads)
        return lambda images: session.run(images.numpy())
    committee = ensemble.load(arguments.members, views=arguments.tta)
    assert isinstance(committee, Ensemble)  # noqa: S101  # members, not a file
    if kind == "eager":
        return eager(committee, precision)
    return ensemble.freeze(committee, Setting(CPU, "bf16" if precision == "bf16" else "fp32"))


def run_one(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a contender's latencies by batch size, and its classes of the first images."""
    keep_freed_memory()
    run = build(name, arguments)
    images = load_split("cifar10", "test").images
    with torch.inference_mode():
        top = np.asarray(run(torch.from_numpy(images[: arguments.compared]))).argmax(1)
        times = {
            str(batch): measure(
                run, shuffled_batches(images, batch, seed=0, device=CPU), device=CPU, seconds=arguments.seconds
            ).to_dict()
            for batch in arguments.batch
        }
    return {"times": times, "top": top.tolist()}


def export_graphs(arguments: argparse.Namespace) -> None:
    """Write the graphs that are timed, without the gate."""
    committee = Committee(tuple(parse_members(arguments.members)), arguments.tta)
    lockfile = json.loads(lockfile_text(committee, fitted_on=None, metrics={}))
    for precision in ("fp32", "int8"):
        calibration = load_calibration("cifar10") if precision == "int8" else None
        order = Order(committee, lockfile, precision, calibration=calibration)
        export(order, arguments.folder / f"{precision}.onnx")


def measure_round(number: int, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what each contender measures, each in a process of its own."""
    names, results = list(CONTENDERS), {}
    start = number % len(names)
    for name in [*names[start:], *names[:start]]:
        words = [sys.executable, "-m", "benchmarks.graphs", "--one", name, "--folder", str(arguments.folder)]
        for option in ("members", "tta", "threads", "seconds", "compared"):
            words += [f"--{option}", str(getattr(arguments, option))]
        words += ["--batch", ",".join(map(str, arguments.batch))]
        done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
        results[name] = json.loads(done.stdout.splitlines()[-1])
        said = ", ".join(f"{batch}: {of['median_ms']:.2f} ms" for batch, of in results[name]["times"].items())
        print(f"  {name:<12}{said}", file=sys.stderr)
    return results


def ratios(rounds: list[dict[str, dict[str, Any]]], pair: tuple[str, str], batch: str) -> list[float]:
    """Return how many times as fast the first of a pair is as the second, of each round, sorted."""
    first, second = pair
    return sorted(r[second]["times"][batch]["median_ms"] / r[first]["times"][batch]["median_ms"] for r in rounds)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Exported graphs beside PyTorch.")
    parser.add_argument("--members", default="fastnet-seed[1-5]")
    parser.add_argument("--tta", default="flip")
    parser.add_argument("--batch", type=lambda text: [int(part) for part in text.split(",")], default=[1, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of each measurement.")
    parser.add_argument("--compared", type=int, default=256, help="Images whose classes are compared.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        export_graphs(arguments)
        rounds = [measure_round(number, arguments) for number in range(arguments.rounds)]
    batches = [str(batch) for batch in arguments.batch]
    table: dict[str, Any] = {
        "members": arguments.members,
        "views": arguments.tta,
        "threads": arguments.threads,
        "rounds": len(rounds),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "onnxruntime-gpu")},
        "times": {
            name: {
                batch: {
                    key: statistics.median(r[name]["times"][batch][key] for r in rounds)
                    for key in ("median_ms", "p99_ms")
                }
                for batch in batches
            }
            for name in CONTENDERS
        },
        "ratios": {
            f"{first} / {second}": {batch: ratios(rounds, (first, second), batch) for batch in batches}
            for first, second in RATIOS
        },
        "same_class": {
            name: float(np.mean(np.equal(rounds[0][name]["top"], rounds[0]["eager fp32"]["top"])))
            for name in CONTENDERS
        },
    }
    if arguments.json:
        print(json.dumps(table))
    else:
        show(table, batches)


def show(table: dict[str, Any], batches: list[str]) -> None:
    """Print the results as tables."""
    used = ", ".join(f"{package} {version}" for package, version in table["versions"].items())
    print(f"{table['members']}, {table['views']}; {table['rounds']} rounds, {table['threads']} CPU threads; {used}")
    print(f"{'':<26}" + "".join(f"{f'batch {batch}: median, p99':>28}" for batch in batches) + "   same class")
    for name, times in table["times"].items():
        cells = "".join(f"{times[b]['median_ms']:>16.2f} ms, {times[b]['p99_ms']:.2f} ms".rjust(28) for b in batches)
        print(f"{name:<26}{cells}   {100 * table['same_class'][name]:.1f} %")
    for pair, by_batch in table["ratios"].items():
        cells = "".join(
            f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})".rjust(28)
            for found in by_batch.values()
        )
        print(f"{pair:<26}{cells}")


if __name__ == "__main__":
    main()
