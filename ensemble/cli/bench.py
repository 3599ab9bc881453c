"""`ensemble bench`: how fast an exported graph is, beside PyTorch."""

import json
import logging
import math
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import STDOUT, check_output, write_output
from zoo.cli.types import PATH, TEXT
from zoo.errors import MenagerieError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from export.bench import Bench, Contender
    from export.runtime.base import AnySession
    from zoo.data.split import Pixels

__all__ = ["command"]

_PICTURES = 2048  # different images that are timed on, at most, unless a batch has more


@click.command("bench")
@click.argument("models", metavar="MODEL.onnx...", nargs=-1, required=True, type=PATH)
@click.option("--batch", "batches", type=TEXT, default="1,8,64,512", show_default=True, help="Images in a batch.")
@click.option("--device", type=TEXT, help="cpu, cuda, tensorrt [default: cuda if there is a GPU].")
@click.option("--allow-cpu", is_flag=True, help="Take the CPU where the device cannot run the graph.")
@click.option("--threads", type=click.IntRange(min=1), help="On the CPU [default: as many as processors to use].")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="For each row, at least.")
@click.option("--no-pytorch", is_flag=True, help="The graph alone.")
@click.option("--data", type=PATH, help="Folder with the test images [default: the package, ZOO_DATA].")
@click.option(
    "--json", "json_to", type=PATH, help="Write the result as JSON to a file, or - for stdout instead of the table."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    models: tuple[Path, ...],
    batches: str,
    device: str | None,
    allow_cpu: bool,
    threads: int | None,
    seconds: float,
    no_pytorch: bool,
    data: Path | None,
    json_to: Path | None,
    quiet: bool,
) -> None:
    """Measure an exported graph, or a cascade's folder, beside PyTorch: median, p90, p99, images a second.

    PyTorch runs the same ensemble, whose members the graph names: eager and channels-last in the graph's precision (an
    int8 graph's in bf16, where that is fast), through torch.compile, and frozen by ensemble.freeze. All take turns, as
    a machine's speed changes while they run, on the same test images; a ratio is the median over the rounds. Several
    graphs are measured beside each other, and PyTorch in the precision of the first. PyTorch has the memory allocator's
    setting of all our commands, which makes it faster than it is by itself.

    \b
      ensemble bench model.onnx
      ensemble bench int8.onnx fp32.onnx --batch 1,64 --json bench.json
    """
    sizes = _sizes(batches)
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--seconds {seconds:g}: give a finite time above 0")
    check_output("--json", json_to, [path for path in models if path.is_file()])

    from export.bench import bench, graph
    from export.devices import CPU
    from export.runtime import open_session
    from export.runtime.providers import threads_of
    from zoo.allocator import keep_freed_memory
    from zoo.cli.progress import Progress

    keep_freed_memory()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nobody compiles for a GPU that is not here
    threads = threads_of(threads)
    sessions = [open_session(path, device=device, allow_cpu=allow_cpu, threads=threads) for path in models]
    notes: list[str] = []
    pixels, images = _pictures(sessions[0], data, max(sizes), notes)
    place = "cpu" if sessions[0].provider == CPU else "cuda"
    with Progress(1, "measuring", "", quiet=quiet) as bar:
        contenders = _named([graph(session) for session in sessions], models)
        if not no_pytorch:
            bar.note("loading the ensemble in PyTorch")
            contenders += _pytorch(sessions[0], place, notes)
        found = bench(contenders, pixels, sizes, seconds=seconds, threads=threads, tell=bar.note)
    found.notes[:0] = notes
    table = _table(sessions, found, place, threads, images)
    if json_to != STDOUT:
        _print(table)
    if json_to is not None:
        write_output(json_to, json.dumps(table, indent=1) + "\n")


def _sizes(text: str) -> list[int]:
    """Return the sizes of batches that a text names, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--batch {text!r}: give numbers from 1, with commas between them: 1,8,64")
    return list(dict.fromkeys(map(int, words)))


def _named(contenders: "list[Contender]", models: tuple[Path, ...]) -> "list[Contender]":
    """Return graphs with the paths that they were given by, where two have one name."""
    from dataclasses import replace

    if len({one.name for one in contenders}) == len(contenders):
        return contenders
    if len(set(models)) < len(models):
        raise UsageError(f"{str(max(models, key=models.count))!r} is given twice")
    return [replace(one, name=str(path)) for one, path in zip(contenders, models, strict=True)]


def _pictures(session: "AnySession", data: Path | None, most: int, notes: list[str]) -> "tuple[Pixels, str]":
    """Return images to be timed on, and what they are, in words: test images, or noise if there are none here."""
    import numpy as np

    from ensemble.evaluate import SplitSource

    dataset, size = session.lockfile["dataset"], session.input_size
    source = SplitSource(dataset, "test", data, size=size, classes=session.classes)
    try:
        split = source.split
    except NotFoundError as error:
        if data is not None:
            raise
        notes.append(f"the images are noise, by which a cascade's exits are others ({error})")
        return np.random.default_rng(0).integers(0, 256, (max(most, _PICTURES), *size, 3), np.uint8), "noise"
    count = min(len(split), max(_PICTURES, most))
    return split.images[split.order[:count]], f"{dataset} test {split.fingerprint[:16]}, {count} images"


def _pytorch(session: "AnySession", place: str, notes: list[str]) -> "list[Contender]":
    """Return PyTorch's contenders; none, and a note, if it cannot run the ensemble here."""
    import torch

    from export.bench import load_model, torch_contenders, torch_precision

    if place == "cuda" and not torch.cuda.is_available():
        notes.append("PyTorch is left out: the one that is installed has no CUDA")
        return []
    device = torch.device(place)
    try:
        model = load_model(session)
    except MenagerieError as error:
        notes.append(f"PyTorch is left out: {error}")
        return []
    return torch_contenders(model, torch_precision(session.precision, device), device)


def _table(sessions: "Sequence[AnySession]", found: "Bench", place: str, threads: int, images: str) -> dict[str, Any]:
    """Return all that was measured, and on what, for JSON."""
    from ensemble.latency.hardware import hardware, versions
    from zoo.allocator import allocator_setting

    return {
        "graphs": [
            {
                "path": str(session.path),
                "sha256": session.sha256,
                "precision": session.precision,
                "opset": session.about.opset,
                "provider": session.provider,
                "members": list(session.members),
                "views": session.lockfile["views"],
                "merge": session.lockfile["merge"],
                "cascade": bool(session.lockfile.get("cascade")),
            }
            for session in sessions
        ],
        "images": images,
        "rows": [row.to_dict() for row in found.rows],
        "agreement": found.agreement,
        "notes": found.notes,
        "threads": threads,
        "allocator": allocator_setting(),
        "hardware": hardware(_device(place)).to_dict(),
        "versions": versions(),
    }


def _device(place: str) -> "torch.device | str":
    """Return the device whose hardware is named: a GPU, if PyTorch can name it."""
    import torch

    return place if torch.cuda.is_available() else "cpu"


def _print(table: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    first = table["graphs"][0]
    members = f"{len(first['members'])} member{'s' if len(first['members']) > 1 else ''}"
    title = f"{members}, views: {first['views']}; {first['provider']}, {table['threads']} threads; {table['images']}"
    shown = Table()
    names = ("batch", "", "precision", "median ms", "p90", "p99", "images/s", "times as fast")
    for name in names:
        shown.add_column(name, justify="left" if name in {"", "precision"} else "right")
    notes = list(table["notes"])
    for batch, rows in groupby(table["rows"], lambda row: row["batch"]):
        for number, row in enumerate(rows):
            times = [f"{row[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")]
            ratio = "1" if row["ratio"] is None else f"{row['ratio']:.2f}"
            cells = (f"{batch:,}" if number == 0 else "", escape(row["name"]), row["precision"])
            shown.add_row(*cells, *times, f"{row['images_per_second']:,.0f}", ratio)
            if row["note"]:
                notes.append(f"{row['name']}, batch of {batch}: {row['note']}")
        shown.add_section()
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(title, highlight=False, soft_wrap=True, markup=False)
    console.print(shown)
    about = table["hardware"]
    used = ", ".join(f"{name} {version}" for name, version in table["versions"].items() if version)
    where = [about["accelerator"], about["cpu"], f"{about['cores']} cores"]
    lines = [f"{', '.join(filter(None, where))}; {used}", *(f"note: {note}" for note in notes)]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
