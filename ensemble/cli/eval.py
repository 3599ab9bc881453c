"""`ensemble eval`: accuracy and calibration of an ensemble on a split."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import STDOUT, check_output, committee_options, read_committee, write_output
from ensemble.evaluate import Ballots, Report, SplitSource, score, split_source, stored_ballots
from zoo.cli.types import PATH, TEXT
from zoo.entry import Entry
from zoo.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from ensemble.cascade.stored import Exits
    from ensemble.lockfile import Committee
    from tta.predict import Precision

__all__ = ["command"]


@click.command("eval")
@committee_options
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option(
    "--dataset", type=TEXT, help="If all members are prediction files; entries know theirs [default: that of --data]."
)
@click.option("--size", type=click.IntRange(min=1), help="Likewise: pixels that pictures of many sizes are fitted to.")
@click.option("--fresh", is_flag=True, help="Run the networks instead of reading stored predictions.")
@click.option("--limit", type=click.IntRange(min=1), help="With --fresh: only the first N images.")
@click.option("--data", type=PATH, help="Folder with the data [default: the package, ZOO_DATA].")
@click.option("--device", type=TEXT, help="With --fresh: cpu, cuda [default: cuda if there is one].")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="With --fresh [default: fp32].")
@click.option(
    "--json", "json_to", type=PATH, help="Write the result as JSON to a file, or - for stdout instead of the table."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    members: str | None,
    lockfile: Path | None,
    views: str | None,
    merge: str | None,
    split: str,
    dataset: str | None,
    size: int | None,
    fresh: bool,
    limit: int | None,
    data: Path | None,
    device: str | None,
    precision: str | None,
    json_to: Path | None,
    quiet: bool,
) -> None:
    """Evaluate an ensemble: each member, and all of them merged, with Wilson's 95 % interval.

    Without --fresh the predictions that travel with each entry are scored; no network runs. An ensemble.json with a
    cascade is scored by what its early exits answer, beside the whole committee; with --fresh the exits really run.

    \b
      ensemble eval --members 'fastnet-seed*' --tta flip
      ensemble eval --members fastnet-seed1,fastnet-seed2=0.5 --tta flip --fresh --json result.json
    """
    began = time.perf_counter()
    for option, value in (("--limit", limit), ("--device", device), ("--precision", precision)):
        if value is not None and not fresh:
            raise UsageError(f"{option} goes with --fresh: stored predictions are of the whole split, and nothing runs")
    check_output("--json", json_to, [lockfile] if lockfile else [])
    committee = read_committee(members, lockfile, views, merge)
    check_output("--json", json_to, [m.origin for m in committee.members if isinstance(m.origin, Path)])
    square = (size, size) if size is not None else None
    source = split_source(committee.members, split, data, dataset=dataset, size=square)
    if fresh:
        precision = precision or "fp32"
        ballots, exits, where = _run(committee, source, limit, device, precision, quiet=quiet)
    else:
        ballots, exits, where = stored_ballots(committee, source), None, None
    ran = fresh and _networks(committee) > 0
    report = score(
        committee,
        ballots,
        source,
        source="fresh" if ran else "stored",
        device=where if ran else None,
        precision=precision if ran else None,
        seconds=time.perf_counter() - began,
        exits=exits,
    )
    if json_to != STDOUT:
        _print_table(report, committee.views)
    if json_to is not None:
        write_output(json_to, json.dumps(report.to_dict(), indent=1) + "\n")
    if fresh and limit is None and precision == "fp32":
        # Last, so that a full disk costs the cache and not the result.
        from ensemble.fresh import keep_ballots

        keep_ballots(committee, ballots, source)


def _networks(committee: "Committee") -> int:
    """Return how many members have a network; what the others say is stored."""
    return sum(isinstance(m.origin, Entry) and not m.origin.external for m in committee.members)


def _run(
    committee: "Committee", source: SplitSource, limit: int | None, device: str | None, precision: str, *, quiet: bool
) -> "tuple[Ballots, Exits | None, str]":
    """Run the networks behind a progress bar; return the ballots, a cascade's exits and the device's name.

    Every network sees every image, to measure members and agreement; a cascade then runs by itself, with the same ones.
    """
    from ensemble.fresh import fresh_ballots, fresh_exits, load_whole
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.cli.progress import Progress

    keep_freed_memory()
    where = pick_device(device)
    runs = _networks(committee) + bool(committee.cascade)
    images = min(limit or len(source.split), len(source.split))
    with Progress(max(1, runs * images), "evaluating", "images", quiet=quiet) as bar:

        def show(done: int, name: str) -> None:
            bar.relabel(name)
            bar.advance(done)

        number: Precision = "bf16" if precision == "bf16" else "fp32"
        whole = load_whole(committee, source, device=where, precision=number) if committee.cascade else None
        ballots = fresh_ballots(
            committee, source, device=where, precision=number, limit=limit, progress=show, whole=whole
        )
        exits = None
        if whole is not None:
            exits = fresh_exits(committee, source, device=where, limit=limit, progress=show, whole=whole)
    return ballots, exits, str(where)


def _print_table(report: Report, views: str) -> None:
    """Print the report for people, on stdout, with the name of the view set."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    how = "stored predictions" if report.source == "stored" else f"fresh, {report.device}, {report.precision}"
    table = Table(
        title=f"{report.dataset} {report.split}, {report.images:,} images, views: {views}", title_justify="left"
    )
    for name in ("member", "weight", "accuracy", "NLL", "ECE"):
        table.add_column(name, justify="left" if name == "member" else "right")
    for m in report.members:
        table.add_row(escape(m["name"]), f"{m['weight']:g}", *_scores(m))
    table.add_section()
    e, cascade = report.ensemble, report.cascade
    name = f"ensemble of {len(report.members)}, merge: {report.merge}"
    if cascade is not None:
        table.add_row(name, "", *_scores(cascade["whole"]))
        name = f"its cascade of {len(cascade['stages'])} stages"
    table.add_row(name, "", *_scores(e), style="bold")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    if cascade is not None:
        _print_stages(console, cascade)
    interval, of = _interval(e), ""
    if cascade is not None:
        of, interval = "the cascade's ", f"{interval}, the whole ensemble's {_interval(cascade['whole'])}"
    console.print(
        f"{of}95 % interval {interval} (Wilson); {of}Brier {e['brier']:.4f}; {how}, {report.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _interval(of: Mapping[str, Any]) -> str:
    low, high = of["accuracy_ci95"]
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def _scores(of: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return accuracy, NLL and ECE as a row of the table shows them."""
    likelihood = "" if of["nll"] is None else f"{of['nll']:.4f}"
    return f"{100 * of['accuracy']:.2f} %", likelihood, f"{of['ece']:.4f}"


def _print_stages(console: "Console", cascade: Mapping[str, Any]) -> None:
    """Print where images leave a cascade, and what that saves."""
    for number, stage in enumerate(cascade["stages"], 1):
        right = "" if stage["accuracy"] is None else f", {100 * stage['accuracy']:.2f} % of them right"
        asked = f"{len(stage['members'])} member{'s' if len(stage['members']) > 1 else ''}, views: {stage['views']}"
        console.print(f"stage {number}: {asked}: {100 * stage['share']:.2f} % of images leave{right}", highlight=False)
    saved = ""
    if cascade["of_whole"] is not None:
        mean = f"{cascade['multiply_adds'] / 1e9:.3g} 10^9 multiply-adds an image"
        saved = f"{mean}, {100 * cascade['of_whole']:.1f} % of the whole ensemble's; "
    console.print(
        f"{saved}the whole ensemble's class on {100 * cascade['agreement']:.2f} %", highlight=False, soft_wrap=True
    )
