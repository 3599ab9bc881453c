"""`ensemble report`: one page that shows accuracy against latency, and how the chosen point errs."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ensemble.cli.options import STDOUT, check_budgets, check_output
from zoo.cli.complete import member_names
from zoo.cli.types import PATH, TEXT
from zoo.errors import UsageError

if TYPE_CHECKING:
    from ensemble.evaluate import SplitSource
    from ensemble.report.bench import Bench
    from ensemble.report.graphs import Graph
    from ensemble.report.record import Budget, Record
    from zoo.cli.progress import Progress

__all__ = ["command"]

_LARGE = {"cpu": 64, "cuda": 512}
"""Images in the large batch."""
_MEASURED = {
    *("graphs", "budget_ms", "batch", "large_batch", "precisions", "compiled", "device", "seconds", "remeasure"),
}
"""Options that say what runs, and how."""


@click.command("report")
@click.option(
    "--pool", "patterns", required=True, type=TEXT, shell_complete=member_names, help="Names and patterns: 'wrn*,cnn6'."
)
@click.option("--ensemble", "files", multiple=True, type=PATH, help="An ensemble.json to show; repeat it.")
@click.option(
    "--tta", "sets", multiple=True, type=TEXT, metavar="SET", help="View set; repeat it [default: none, flip]."
)
@click.option("--max-members", type=click.IntRange(min=1), default=6, show_default=True, help="Of the pool's best k.")
@click.option("--graphs", type=PATH, help="Folder of exported *.onnx, run by ONNX Runtime.")
@click.option(
    "--budget-ms", type=float, metavar="MS", help="Choose the best point of at most so many ms in the median."
)
@click.option("--budget-macs", type=float, metavar="G", help="Likewise, of at most so many 10^9 multiply-adds.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images, for the latency.")
@click.option(
    "--large-batch",
    type=click.IntRange(min=1),
    help="For the throughput [default: 64; on a GPU 512; at most the split].",
)
@click.option(
    "--precision", "precisions", multiple=True, type=TEXT, help="fp32, bf16, fp16 [default: fp32 and what is fastest]."
)
@click.option("--compile", "compiled", is_flag=True, help="Time torch.compile as well.")
@click.option("--device", type=TEXT, help="cpu, cuda [default: cuda if there is one].")
@click.option(
    "--seconds",
    type=float,
    default=2.0,
    show_default=True,
    help="For each measurement of what is not known yet; --remeasure measures all again.",
)
@click.option("--remeasure", is_flag=True, help="Measure again what was measured on this hardware before.")
@click.option("--no-measure", is_flag=True, help="Run nothing: multiply-adds take the place of latencies.")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option(
    "--dataset", type=TEXT, help="If all are prediction files; entries know theirs [default: that of --data]."
)
@click.option("--size", type=click.IntRange(min=1), help="Likewise: pixels that pictures of many sizes are fitted to.")
@click.option("--data", type=PATH, help="Folder with the data [default: the package, ZOO_DATA].")
@click.option("--mistakes", type=click.IntRange(min=0), default=24, show_default=True, help="Pictures of them.")
@click.option("--json", "json_to", type=PATH, help="Write all of it as JSON to a file, or - for stdout.")
@click.option(
    "--csv", "csv_to", type=PATH, help="Write the tables as CSV into a folder; it is made, its parent is not."
)
@click.option("--plots", "plots_to", type=PATH, help="Likewise the plots as SVG and PNG.")
@click.option("-o", "--output", type=PATH, required=True, help="The page to write: report.html.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    patterns: str,
    files: tuple[Path, ...],
    sets: tuple[str, ...],
    max_members: int,
    graphs: Path | None,
    budget_ms: float | None,
    budget_macs: float | None,
    batch: int,
    large_batch: int | None,
    precisions: tuple[str, ...],
    compiled: bool,
    device: str | None,
    seconds: float,
    remeasure: bool,
    no_measure: bool,
    split: str,
    dataset: str | None,
    size: int | None,
    data: Path | None,
    mistakes: int,
    json_to: Path | None,
    csv_to: Path | None,
    plots_to: Path | None,
    output: Path,
    quiet: bool,
) -> None:
    """Show what there is to choose from: members, their best committees, ensemble files, students and cascades.

    Each is scored on the split and timed on this machine, warm; times are kept by hardware. The page is one file that
    loads nothing. Scores in fp32 are those of stored predictions; in another precision, each network runs once over the
    split. Points are chosen by stored predictions for the validation split, which are in fp32; the split that is shown
    takes no part in it.

    \b
      ensemble report --pool 'fastnet-seed*,wrn*' --budget-ms 20 -o report.html
      ensemble report --pool 'fastnet*' --ensemble ensemble.json --json report.json --plots plots -o report.html
    """
    budget = _budget(budget_ms, budget_macs)
    _check(no_measure=no_measure, precisions=precisions)
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--seconds {seconds:g}: give a finite time above 0")
    _check_outputs(output, json_to, csv_to, plots_to, files)

    from ensemble.evaluate import SplitSource, split_source
    from ensemble.fit.leaks import refuse_mixed
    from ensemble.fit.pool import SPLIT
    from ensemble.lockfile import read_lockfile, read_provenance
    from ensemble.members import parse_members
    from ensemble.report.gather import Plan, gather
    from tta import view_set
    from zoo.cli.progress import Progress

    members = parse_members(patterns)
    weighted = next((m.name for m in members if m.weight != 1), None)
    if weighted is not None:
        raise UsageError(f"--pool: {weighted!r} has a weight; give committees with weights as files: --ensemble FILE")
    names = [path.name for path in files]
    paths = {path.name if names.count(path.name) == 1 else str(path): path for path in files}
    committees = {name: read_lockfile(path) for name, path in paths.items()}
    fits = {name: read_provenance(path) for name, path in paths.items()}
    sets = tuple(dict.fromkeys(sets or ("none", "flip")))
    for name in sets:
        view_set(name)
    everyone = [*members, *(m for committee in committees.values() for m in committee.members)]
    refuse_mixed(everyone)
    source = split_source(everyone, split, data, dataset=dataset, size=None if size is None else (size, size))
    validation = SplitSource(source.dataset, SPLIT)  # stored predictions alone are read of it: it needs no images
    plan = Plan(members, committees, sets, max_members, budget, mistakes, fits)
    with Progress(1, "reporting", "", quiet=quiet) as bar:
        bench = None
        if not no_measure:
            bench = _bench(
                source, device, (batch, large_batch), sets=sets, seconds=seconds, remeasure=remeasure, bar=bar
            )
            plan = replace(
                plan,
                precisions=_precisions(precisions, bench),
                runtimes=("frozen", "compiled") if compiled else ("frozen",),
                graphs=_graphs(graphs, bench),
            )
        record = gather(plan, source, validation, bench=bench, tell=bar.note)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = replace(record, hardware=_hardware(bench), command=_command_line(), made=now)
    if bench is not None and _given("seconds"):
        _tell_of_kept(len(bench.kept))
    _write(record, output, json_to, csv_to, plots_to)


def _budget(milliseconds: float | None, macs: float | None) -> "Budget | None":
    from ensemble.report.front import MILLISECONDS, MULTIPLY_ADDS
    from ensemble.report.record import Budget

    check_budgets(macs, milliseconds)
    if macs is not None:
        return Budget(macs, MULTIPLY_ADDS)
    return None if milliseconds is None else Budget(milliseconds, MILLISECONDS)


def _check(*, no_measure: bool, precisions: Sequence[str]) -> None:
    """Raise `UsageError` at options that do not go together."""
    for option in click.get_current_context().command.params:
        if no_measure and option.name in _MEASURED and _given(option.name):
            raise UsageError(f"{option.opts[0]} needs something to run: leave --no-measure out")
    from zoo.convert import DTYPES

    unknown = next((p for p in precisions if p not in DTYPES), None)
    if unknown is not None:
        raise UsageError(f"unknown --precision {unknown!r}; there are {', '.join(DTYPES)}")


def _given(name: str) -> bool:
    """Say whether an option is on the command line."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _check_outputs(
    output: Path, json_to: Path | None, csv_to: Path | None, plots_to: Path | None, inputs: Sequence[Path]
) -> None:
    """Refuse before any work what cannot lie where it is wanted; errors as in `check_output`."""
    from zoo.files import check_writable

    if output == STDOUT:
        raise UsageError("-o -: a page goes to a file; --json - writes what it says to stdout")
    if json_to is not None and json_to.resolve() == output.resolve():
        raise UsageError(f"-o and --json are both {str(output)!r}: give two files")
    check_output("-o", output, inputs)
    check_output("--json", json_to, inputs)
    for option, folder in (("--csv", csv_to), ("--plots", plots_to)):
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {str(folder)!r} is a file, and a folder is needed")
        if not folder.parent.is_dir():
            raise UsageError(f"{option} {str(folder)!r} is neither a folder, nor a new one in an existing folder")
        check_writable(folder)


def _write(record: "Record", output: Path, json_to: Path | None, csv_to: Path | None, plots_to: Path | None) -> None:
    """Write all there is, and say so; raise the last `StorageError`, after those before it are said on stderr."""
    from ensemble.report.write import to_json, write
    from zoo.cli.group import complain

    refused = write(record, output, json_to=None if json_to == STDOUT else json_to, csv_to=csv_to, plots_to=plots_to)
    if json_to == STDOUT:
        click.echo(to_json(record), nl=False)
    if output not in refused:
        click.echo(_summary(record, output), err=json_to == STDOUT)
    errors = list(refused.values())
    for error in errors[:-1]:
        complain(f"error: {error}")
    if errors:
        raise errors[-1]


def _bench(
    source: "SplitSource",
    device: str | None,
    batches: tuple[int, int | None],
    *,
    sets: Sequence[str],
    seconds: float,
    remeasure: bool,
    bar: "Progress",
) -> "Bench":
    """Return what runs and times the candidates."""
    from ensemble.report.bench import Bench
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device

    keep_freed_memory()
    where = pick_device(device)
    both = _batches(*batches, len(source.split), where.type)
    return Bench(where, source, both, sets=sets, seconds=seconds, remeasure=remeasure, tell=bar.note)


def _tell_of_kept(latencies: int) -> None:
    from zoo.cli.group import complain

    if latencies:
        before = "1 latency was" if latencies == 1 else f"{latencies} latencies were"
        complain(f"note: {before} measured before, whatever --seconds says: --remeasure measures all again")


def _batches(small: int, large: int | None, images: int, device: str) -> tuple[int, int | None]:
    """Return both batches; the default large one fits the split, and is None if it is then no larger than the small.

    Raises:
        UsageError: one that was asked for has more images than the split.
    """
    for option, batch in (("--batch", small), ("--large-batch", large)):
        if batch is not None and batch > images:
            raise UsageError(f"{option} {batch}: the split has {images:,} images only")
    if large is None:
        most = min(_LARGE.get(device, _LARGE["cpu"]), images)
        large = most if most > small else None
    return small, large


def _precisions(asked: Sequence[str], bench: "Bench") -> tuple[str, ...]:
    from tta.freeze import best_precision

    return tuple(dict.fromkeys(asked or ("fp32", best_precision(bench.device))))


def _graphs(folder: Path | None, bench: "Bench") -> "Sequence[Graph]":
    if folder is None:
        return ()
    from ensemble.report.graphs import find_graphs
    from export.runtime import open_session

    return find_graphs(folder, lambda path: open_session(path, device=bench.device.type))


def _hardware(bench: "Bench | None") -> dict[str, str]:
    """Return what was measured on, and the versions of what made the report, for people."""
    from ensemble.latency.hardware import hardware, versions

    found = hardware("cpu") if bench is None else bench.cache.hardware
    about = {"device": "nothing was measured" if bench is None else str(bench.device), "hardware": str(found)}
    if bench is not None:
        about["CPU threads"] = str(bench.cache.setup["threads"])
    return about | {name: version for name, version in versions().items() if version is not None}


def _command_line() -> str:
    """Return the command that was given, as a shell takes it: the options that were said, in the order of the help."""
    context = click.get_current_context()
    words = ["ensemble", "report"]
    for parameter in context.command.params:
        name = parameter.name or ""
        if not _given(name):
            continue
        value, option = context.params[name], parameter.opts[-1] if parameter.opts[0] != "-o" else "-o"
        for one in value if isinstance(value, tuple) else (value,):
            words += [option] if one is True else [option, str(one)]
    return shlex.join(words)


def _summary(record: "Record", output: Path) -> str:
    """Return what a person at the terminal wants to know: what was chosen, and where the page is."""
    from zoo.cli.group import one_line

    best = record.points[record.closeup.point]
    low, high = best.scores.accuracy_ci95
    parts = [
        *([record.missed] if record.missed else []),
        f"{best.label}: {100 * best.scores.accuracy:.2f} % ({100 * low:.2f} to {100 * high:.2f})",
    ]
    if best.latency is not None:
        parts.append(f"{best.latency.median_ms:.3g} ms, p99 {best.latency.p99_ms:.3g} ms")
    front = sum(point.front for point in record.points)
    size = output.stat().st_size / 1e6
    points = f"{len(record.points):,} point{'s' if len(record.points) > 1 else ''}, {front:,} on the front"
    parts.append(f"{record.closeup.why}; {points}; wrote {output}, {size:.1f} MB")
    return one_line("; ".join(parts))
