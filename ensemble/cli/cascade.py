"""`ensemble cascade`: stages and thresholds for an ensemble, fitted on the validation split."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import STDOUT, check_fit, fit_options, write_output
from tta import view_set
from zoo.cli.group import complain
from zoo.cli.types import PATH
from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from ensemble.cascade.fit import CascadeFit
    from ensemble.evaluate import Ballots, SplitSource
    from ensemble.lockfile import Committee

__all__ = ["command"]

_MOST_STAGES = 4  # as `ensemble.cascade.thresholds.MOST_STAGES`, which a test holds


@click.command("cascade")
@click.argument("lockfile", metavar="ENSEMBLE.json", type=PATH)
@click.option(
    "--max-accuracy-drop",
    "allowed",
    type=float,
    default=0.0005,
    show_default=True,
    help="The most that may be lost, as a fraction: 0.0005 is 0.05 points. It holds on the validation images, and on"
    " others as far as cross-validation can tell.",
)
@click.option(
    "--max-stages",
    "most",
    type=click.IntRange(2, _MOST_STAGES),
    default=_MOST_STAGES,
    show_default=True,
    help="Stages, the last included, which is the whole ensemble.",
)
@fit_options("cascade.json")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr.")
def command(
    *,
    lockfile: Path,
    allowed: float,
    most: int,
    split: str | None,
    output: Path | None,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Ask an ensemble in stages: an image leaves at the first that is sure enough of it.

    Finds which members are asked first, under which views, and how sure is sure enough, so that as little as possible
    is computed. On the validation images no more accuracy than --max-accuracy-drop is lost. On others no more is in
    cross-validation, as counted and as the ensemble's own probabilities expect: that chooses how strict the thresholds
    are, and both numbers are printed with their standard errors. As they have chosen, they flatter a little; if not
    even the strictest thresholds hold, or there are too few images, that is said. Stored predictions are fitted on; no
    network runs.

    \b
      ensemble cascade ensemble.json -o cascade.json
      ensemble cascade ensemble.json --max-accuracy-drop 0.002 --max-stages 3 --dry-run
    """
    began = time.perf_counter()
    check_fit(split, output, dry_run=dry_run, as_json=as_json, inputs=[lockfile])
    if not (math.isfinite(allowed) and 0 <= allowed < 1):
        raise UsageError(f"--max-accuracy-drop {allowed:g}: a fraction from 0, below 1; 0.0005 is 0.05 points")

    from ensemble.evaluate import score
    from ensemble.lockfile import lockfile_text
    from zoo.allocator import keep_freed_memory

    keep_freed_memory()
    committee, source, ballots, fitted, fitted_on = _fit(lockfile, allowed, most, quiet=quiet)
    # Scored by the code that `ensemble eval` runs, so that the numbers are the same.
    report = score(committee, ballots, source, source="stored")
    held = fitted.held_out is not None and fitted.held_out.drop <= allowed
    cascade = report.cascade or {}
    table: dict[str, Any] = {
        "dataset": report.dataset,
        "split": source.name,
        "images": len(ballots.labels),
        "fitted_on": fitted_on,
        "members": report.members,
        "views": committee.views,
        "merge": committee.merge,
        "ensemble": report.ensemble,
        "cascade": cascade,
        "drop": {
            "allowed": allowed,
            "observed": fitted.chain.choice.observed,
            "expected": fitted.chain.choice.expected,
            "bound": fitted.bound,
            "held": held,
        },
        "cross_validated": asdict(fitted.held_out) if fitted.held_out else None,
    }
    written = None if dry_run else output
    table["output"] = None if written is None else str(written)
    if written is not None:
        about = {key: cascade[key] for key in ("multiply_adds", "of_whole", "agreement")}
        metrics = {**report.ensemble, "cascade": {**about, "cross_validated": table["cross_validated"]}}
        write_output(written, lockfile_text(committee, fitted_on=fitted_on, metrics={source.name: metrics}))
    table["seconds"] = round(time.perf_counter() - began, 3)
    if as_json:
        click.echo(json.dumps(table, indent=1))
    else:
        _print_table(table, aside=written == STDOUT)
    if not quiet and not held:
        complain(f"warning: {_not_held(table)}")


def _fit(
    lockfile: Path, allowed: float, most: int, *, quiet: bool
) -> "tuple[Committee, SplitSource, Ballots, CascadeFit, dict[str, Any] | None]":
    """Fit a cascade to the ensemble of a lockfile; return it, and what all of it was fitted on if anybody knows."""
    from ensemble.cascade.evidence import gather
    from ensemble.cascade.fit import fit_cascade, stages
    from ensemble.evaluate import split_source, stored_ballots
    from ensemble.fit.costs import multiply_adds
    from ensemble.fit.leaks import check_unseen, refuse_unknown
    from ensemble.fit.pool import SPLIT
    from ensemble.lockfile import read_lockfile, read_provenance

    committee = read_lockfile(lockfile)
    if committee.merge == "vote":
        raise UsageError(f"{lockfile} merges by vote, and a share of votes does not say how sure a stage is: use probs")
    if len(committee.members) == 1 and len(view_set(committee.views)) == 1:
        raise UsageError(f"{lockfile} is one member under one view: there is nothing to ask first")
    if committee.cascade and not quiet:
        click.echo(f"{lockfile} has a cascade already: another is fitted to its ensemble", err=True)
    committee = replace(committee, cascade=())
    entries = refuse_unknown(committee.members)
    costs = multiply_adds([entry.card for entry in entries], "none")
    source = split_source(committee.members, SPLIT)
    ballots = stored_ballots(committee, source)
    mark = entries[0].predictions().splits[SPLIT].fingerprint  # and so of all: they have been merged
    for entry in entries:
        check_unseen(entry, mark)
    before = read_provenance(lockfile, committee)
    fitted_on = None
    if before is not None or not _looks_fitted(committee):  # what nobody knows of its weights, a cascade does not mend
        objective = before["objective"] if before else "cascade"
        fitted_on = {"split": SPLIT, "fingerprint": mark, "images": len(ballots.labels), "objective": objective}
    evidence = gather(committee, ballots, costs.tolist())
    fitted = fit_cascade(evidence, allowed, most)
    if fitted is None:
        raise DataError(
            f"no cascade of {lockfile} is cheaper than all of it and loses at most {100 * allowed:g} points: "
            "allow a larger --max-accuracy-drop"
        )
    return replace(committee, cascade=stages(committee, evidence, fitted.chain)), source, ballots, fitted, fitted_on


def _looks_fitted(committee: "Committee") -> bool:
    """Say whether weights or temperatures are other than those that nobody has fitted."""
    temperatures = {committee.temperature, *(member.temperature for member in committee.members)}
    return temperatures != {1.0} or len({member.weight for member in committee.members}) > 1


def _not_held(table: Mapping[str, Any]) -> str:
    """Say why the allowed drop cannot be relied on."""
    images, allowed = (
        f"{table['images']:,} validation images",
        f"{100 * table['drop']['allowed']:g} points",
    )
    if table["cross_validated"] is None:
        return f"{images} are too few to cross-validate: nothing shows that a drop of {allowed} holds on others"
    return (
        f"a drop of {allowed} does not hold on other images: cross-validated, "
        f"{100 * table['cross_validated']['expected']:.3f} points are expected to be lost, "
        f"{100 * table['cross_validated']['observed']:.2f} were; the thresholds are the strictest that {images} tell"
    )


def _print_table(result: Mapping[str, Any], *, aside: bool) -> None:
    """Print the stages and what they save for people: on stdout, or `aside` on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    cascade, drop = result["cascade"], result["drop"]
    title = f"{result['dataset']} {result['split']}, {result['images']:,} images, merge: {result['merge']}"
    table = Table(title=title, title_justify="left")
    for name in ("stage", "members", "views", "threshold", "leave", "right", "10^9 multiply-adds"):
        table.add_column(name, justify="left" if name in {"members", "views"} else "right")
    for number, stage in enumerate(cascade["stages"], 1):
        right = "" if stage["accuracy"] is None else f"{100 * stage['accuracy']:.2f} %"
        limit = f"{stage['threshold']:.4f}" if stage["threshold"] else ""
        cells = (limit, f"{100 * stage['share']:.2f} %", right, f"{stage['multiply_adds'] / 1e9:.3g}")
        table.add_row(str(number), escape(_joined(cascade["stages"], number)), stage["views"], *cells)
    console = Console(stderr=aside, width=None if (sys.stderr if aside else sys.stdout).isatty() else 100)
    console.print(table)
    whole, own = cascade["whole"]["accuracy"], result["ensemble"]["accuracy"]
    cost = f"{cascade['multiply_adds'] / 1e9:.3g} 10^9 multiply-adds an image"
    share = f"{100 * cascade['of_whole']:.1f} % of the whole ensemble's"
    same = f"the same class on {100 * cascade['agreement']:.2f} %"
    lines = [f"{cost}, {share}; accuracy {100 * own:.2f} %, the whole's {100 * whole:.2f} %; {same}"]
    held = result["cross_validated"]
    if held is not None:
        lines.append(
            f"cross-validated: {100 * held['cost']:.1f} % of the multiply-adds, {100 * held['expected']:.3f} points of "
            f"accuracy expected to be lost, standard error {100 * held['expected_error']:.3f} "
            f"({100 * held['observed']:.2f} observed, standard error {100 * held['observed_error']:.2f}); "
            f"the same class on {100 * held['agreement']:.2f} %"
        )
        chosen = "not even the strictest thresholds hold it"
        if drop["held"]:
            chosen = "these numbers have chosen how strict the thresholds are, so new images may lose a little more"
        lines.append(f"at most {100 * drop['allowed']:g} points allowed: {chosen}")
    written = f"wrote {result['output']}" if result["output"] else "nothing written"
    lines.append(f"{written}, {result['seconds']:.1f} s")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _joined(stages: Sequence[Mapping[str, Any]], number: int) -> str:
    """Name the members that join at a stage, counted from 1."""
    before = stages[number - 2]["members"] if number > 1 else []
    new = [name for name in stages[number - 1]["members"] if name not in before]
    if not before:
        return ", ".join(new)
    return f"and {', '.join(new)}" if new else "the same"
