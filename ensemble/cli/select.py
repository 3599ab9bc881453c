"""`ensemble select`: the best committee of a pool, fitted on the validation split."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ensemble.cli.options import STDOUT, check_budgets, check_fit, fit_options, write_output
from zoo.cli.complete import member_names
from zoo.cli.types import TEXT
from zoo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ensemble.fit.limits import Limits
    from ensemble.fit.objective import Objective
    from ensemble.fit.select import Method
    from ensemble.latency.cache import Known
    from zoo.card import Card

__all__ = ["command"]


@click.command("select")
@click.option(
    "--pool", "patterns", required=True, type=TEXT, shell_complete=member_names, help="Names and patterns: 'wrn*,cnn6'."
)
@click.option("--max-members", type=click.IntRange(min=1), help="The most members.")
@click.option("--budget-macs", type=float, metavar="G", help="The most 10^9 multiply-adds for an image, all views.")
@click.option("--budget-ms", type=float, metavar="MS", help="The most milliseconds, summed over members measured here.")
@click.option("--device", type=TEXT, help="With --budget-ms: cpu, cuda [default: cuda if there is one].")
@click.option("--batch", type=click.IntRange(min=1), help="With --budget-ms: images at a time [default: 1].")
@click.option("--remeasure", is_flag=True, help="With --budget-ms: measure what was measured here before, too.")
@click.option(
    "--tta", "sets", multiple=True, type=TEXT, metavar="SET", help="View set to try; repeat it [default: none, flip]."
)
@click.option("--objective", type=click.Choice(["nll", "accuracy"]), default="nll", show_default=True)
@click.option(
    "--method",
    type=click.Choice(["auto", "greedy", "beam", "exhaustive"]),
    default="auto",
    help="Search [default: exhaustive up to 15 candidates, beam up to 200, then greedy].",
)
@fit_options("ensemble.json")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    patterns: str,
    max_members: int | None,
    budget_macs: float | None,
    budget_ms: float | None,
    device: str | None,
    batch: int | None,
    remeasure: bool,
    sets: tuple[str, ...],
    objective: str,
    method: str,
    split: str | None,
    output: Path | None,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Choose members, views, weights and temperatures on the validation split, and write them as ensemble.json.

    Everything runs on stored predictions, and only entries that say that they did not train on the validation split
    take part. The scores shown are of the split that was fitted on; `ensemble eval --ensemble FILE` has the test one's.

    \b
      ensemble select --pool 'fastnet-seed*,wrn*' -o ensemble.json
      ensemble select --pool '*' --max-members 3 --budget-macs 0.5 --tta none --tta flip -o small.json
    """
    began = time.perf_counter()
    check_fit(split, output, dry_run=dry_run, as_json=as_json)
    check_budgets(budget_macs, budget_ms)
    _check_timing(timed=budget_ms is not None, device=device, batch=batch, remeasure=remeasure)

    from ensemble.evaluate import SplitSource, score, stored_ballots
    from ensemble.fit.baselines import baselines
    from ensemble.fit.limits import Limits
    from ensemble.fit.pool import SPLIT, read_pool
    from ensemble.fit.select import select
    from ensemble.lockfile import Committee, lockfile_text
    from ensemble.members import Member, parse_members
    from zoo.allocator import keep_freed_memory

    keep_freed_memory()
    members = parse_members(patterns)
    weighted = next((m.name for m in members if m.weight != 1), None)
    if weighted is not None:
        raise UsageError(f"--pool: {weighted!r} has a weight, but weights are what is fitted: leave it out")
    sets = tuple(dict.fromkeys(sets or ("none", "flip")))
    pool, entries, fingerprint = read_pool(members, sets)
    if not quiet:
        size = f"{len(pool.names):,} candidates, {len(pool.labels):,} validation images"
        click.echo(f"{size}, read in {time.perf_counter() - began:.1f} s", err=True)
    cards = [entries[name].card for name in pool.names]
    limits: Mapping[str, Limits]
    if budget_ms is not None:
        costs = _milliseconds(cards, sets, device, batch or 1, remeasure=remeasure, quiet=quiet)
        limits = {views: Limits(of_views, budget_ms, max_members) for views, of_views in costs.items()}
    else:
        limits = _counted_limits(cards, sets, budget_macs, max_members)
    chosen = select(pool, limits, cast("Objective", objective), cast("Method", method))
    rows = zip(chosen.members, chosen.weights, chosen.temperatures, strict=True)
    committee = Committee(
        tuple(Member(pool.names[m], entries[pool.names[m]], weight, t) for m, weight, t in rows),
        chosen.views,
        "probs",
        chosen.temperature,
    )
    # Scored by the code that `ensemble eval` runs, so that the numbers are the same.
    source = SplitSource(cards[0].dataset, SPLIT)
    report = score(committee, stored_ballots(committee, source), source, source="stored")
    fitted_on = {"split": SPLIT, "fingerprint": fingerprint, "images": len(pool.labels), "objective": objective}
    written = output if not dry_run else None
    if written is not None:
        write_output(written, lockfile_text(committee, fitted_on=fitted_on, metrics={SPLIT: report.ensemble}))
    best, single, everyone = baselines(pool, chosen.views, chosen.calibrated, cast("Objective", objective))
    unit = "10^9 multiply-adds an image" if budget_ms is None else f"ms for a batch of {batch or 1}"
    table = {
        "dataset": report.dataset,
        "fitted_on": fitted_on,
        "candidates": len(pool.names),
        "method": chosen.method,
        "views": chosen.views,
        "merge": committee.merge,
        "members": [
            {**about, "temperature": member.temperature}
            for about, member in zip(report.members, committee.members, strict=True)
        ],
        "temperature": chosen.temperature,
        "weights": "counts" if chosen.pull is None else "equal" if math.isinf(chosen.pull) else "fitted",
        "cost": {"value": chosen.cost or None, "unit": unit},
        "ensemble": report.ensemble,
        "cross_validated_nll": chosen.cross_validated,
        "best_single": {"name": pool.names[best], **asdict(single)},
        "all_equal": asdict(everyone),
        "output": None if written is None else str(written),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if as_json:
        click.echo(json.dumps(table, indent=1))
    else:
        _print_table(table, aside=written == STDOUT)


def _check_timing(*, timed: bool, device: str | None, batch: int | None, remeasure: bool) -> None:
    """Raise `UsageError` at options that go with a budget of time, without one."""
    for option, given in (("--device", device), ("--batch", batch), ("--remeasure", remeasure or None)):
        if given is not None and not timed:
            raise UsageError(f"{option} goes with --budget-ms: without it, nothing runs")


def _counted_limits(
    cards: Sequence["Card"], sets: Sequence[str], budget: float | None, most: int | None
) -> Mapping[str, "Limits"]:
    """Return the limits of each view set in multiply-adds; cards may be silent of them if there is no budget."""
    import numpy as np

    from ensemble.fit.costs import multiply_adds
    from ensemble.fit.limits import Limits

    silent = budget is None and not all(card.multiply_adds for card in cards)
    return {
        views: Limits(np.zeros(len(cards)) if silent else multiply_adds(cards, views), budget, most) for views in sets
    }


def _milliseconds(
    cards: Sequence["Card"], sets: Sequence[str], device: str | None, batch: int, *, remeasure: bool, quiet: bool
) -> "Mapping[str, npt.NDArray[np.float64]]":
    """Return each card's milliseconds by view set, and say on stderr which were measured now."""
    from ensemble.fit.costs import measured_costs
    from ensemble.latency.cache import LatencyCache
    from zoo.cli.device import pick_device
    from zoo.cli.group import one_line

    cache = LatencyCache(pick_device(device))

    def tell(card: "Card", views: str, known: "Known") -> None:
        found = known.latency
        when = "measured now" if known.fresh else f"as measured on {known.measured[:10]}"
        what = f"{card.architecture} (as {card.name}), --tta {views}, batch {batch}"
        again = "" if known.fresh else "; --remeasure measures again"
        note = f" ({found.note}{again})" if found.note else ""
        took = f"median {found.median_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, {when}{note}"
        click.echo(one_line(f"{what}: {took}"), err=True)

    if not quiet:
        click.echo(one_line(f"on {cache.hardware}, {cache.setup['threads']} threads, known: {cache.path}"), err=True)
    told = None if quiet else tell
    return {views: measured_costs(cards, views, cache, batch, remeasure=remeasure, tell=told) for views in sets}


def _print_table(result: Mapping[str, Any], *, aside: bool) -> None:
    """Print what was selected for people: on stdout, or `aside` on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    fitted, e = result["fitted_on"], result["ensemble"]
    title = f"{result['dataset']} {fitted['split']}, {fitted['images']:,} images, views: {result['views']}"
    table = Table(title=title, title_justify="left")
    for name in ("member", "weight", "temperature", "accuracy", "NLL"):
        table.add_column(name, justify="left" if name == "member" else "right")
    for m in result["members"]:
        table.add_row(escape(m["name"]), f"{m['weight']:.4f}", *_scores(m))
    table.add_section()
    single, everyone = result["best_single"], result["all_equal"]
    for name, scores, style in (
        (f"ensemble of {len(result['members'])}", {**e, "temperature": result["temperature"]}, "bold"),
        (f"best single: {single['name']}", single, None),
        (f"all {result['candidates']:,}, equal weights", everyone, None),
    ):
        table.add_row(escape(name), "", *_scores(scores), style=style)
    console = Console(stderr=aside, width=None if (sys.stderr if aside else sys.stdout).isatty() else 100)
    console.print(table)
    parts = [f"{result['method']} search by {fitted['objective']}"]
    if len(result["members"]) > 1:  # one has all the weight
        parts.append(_weighing(result))
    if result["cost"]["value"] is not None:
        parts.append(f"{result['cost']['value']:.3g} {result['cost']['unit']}")
    if result["cross_validated_nll"] is not None:
        parts.append(f"cross-validated NLL {result['cross_validated_nll']:.4f}")
    written = f"wrote {result['output']}" if result["output"] else "nothing written"
    console.print(f"{'; '.join(parts)}; {written}, {result['seconds']:.1f} s", highlight=False, soft_wrap=True)


def _weighing(result: Mapping[str, Any]) -> str:
    """Return in a few words where the weights are from."""
    if result["weights"] == "counts":
        return "weights: how often each was chosen"
    if result["weights"] == "fitted":
        return "fitted weights"
    asked = result["cross_validated_nll"] is not None
    return f"equal weights: {'the data speaks for no others' if asked else 'too few images to tell'}"


def _scores(of: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return temperature, accuracy and NLL as a row of the table shows them."""
    return f"{of['temperature']:.3f}", f"{100 * of['accuracy']:.2f} %", f"{of['nll']:.4f}"
