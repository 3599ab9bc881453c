"""`ensemble compare`: is one ensemble better than another, on the same images?"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import STDOUT, check_output, read_committee, write_output
from ensemble.evaluate import SplitSource, split_source, stored_ballots, stored_split
from zoo.cli.complete import member_names
from zoo.cli.types import PATH, TEXT
from zoo.entry import Entry
from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from ensemble.comparison import Answers, Comparison
    from ensemble.lockfile import Committee
    from zoo.data.split import Labels

__all__ = ["command"]

_TITLES = {"accuracy": "accuracy", "nll": "NLL", "brier": "Brier", "ece": "ECE", "aurc": "AURC"}


@click.command("compare")
@click.argument("first", metavar="A", type=TEXT, shell_complete=member_names)
@click.argument("second", metavar="B", type=TEXT, shell_complete=member_names)
@click.option(
    "--tta", "views", multiple=True, type=TEXT, help="View set, for both; twice, for A and for B [default: none]."
)
@click.option("--merge", multiple=True, type=TEXT, help="probs, logits or vote, likewise [default: probs].")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option(
    "--dataset", type=TEXT, help="If all members are prediction files; entries know theirs [default: that of --data]."
)
@click.option("--size", type=click.IntRange(min=1), help="Likewise: pixels that pictures of many sizes are fitted to.")
@click.option("--data", type=PATH, help="Folder with the data [default: the package, ZOO_DATA].")
@click.option(
    "--json", "json_to", type=PATH, help="Write the result as JSON to a file, or - for stdout instead of the table."
)
@click.option("-q", "--quiet", is_flag=True, help="Only the sentence.")
def command(
    *,
    first: str,
    second: str,
    views: tuple[str, ...],
    merge: tuple[str, ...],
    split: str,
    dataset: str | None,
    size: int | None,
    data: Path | None,
    json_to: Path | None,
    quiet: bool,
) -> None:
    """Compare two ensembles on the same images: every metric, what they differ by, and whether that is real.

    A and B are each an ensemble.json or members, as --members of `ensemble eval` has them; an ensemble.json brings its
    own views and merge, and its cascade, whose answers count. Stored predictions are scored. Intervals are 95 %, of a
    paired bootstrap over the images.

    \b
      ensemble compare old.json new.json
      ensemble compare 'fastnet-seed[1-5]' 'fastnet-seed[1-5],wrn16-4-seed1' --tta flip
      ensemble compare fastnet-seed1 fastnet-seed1 --tta none --tta flip -q
    """
    began = time.perf_counter()
    words = (first, second)
    check_output("--json", json_to, [Path(word) for word in words if _is_lockfile(word)])
    own = [
        _read(word, chosen, how)
        for word, chosen, how in zip(words, _each("--tta", views, words), _each("--merge", merge, words), strict=True)
    ]
    square = (size, size) if size is not None else None
    source = split_source([m for c in own for m in c.members], split, data, dataset=dataset, size=square)
    answers, labels = _answer(own, words, source)

    from ensemble.comparison import compare

    found = compare(answers[0], answers[1], labels)
    table = found.to_dict()
    report = {
        "dataset": source.dataset,
        "split": split,
        "images": found.images,
        **{
            key: {**_describe(c, word), "metrics": table.pop(key)}
            for key, c, word in zip("ab", own, words, strict=True)
        },
        **table,
        "seconds": round(time.perf_counter() - began, 3),
    }
    if json_to != STDOUT:
        if not quiet:
            _print_table(found, report)
        click.echo(report["verdict"])
    if json_to is not None:
        write_output(json_to, json.dumps(report, indent=1) + "\n")


def _is_lockfile(word: str) -> bool:
    return word.endswith(".json")


def _each(option: str, given: tuple[str, ...], words: tuple[str, str]) -> tuple[str | None, str | None]:
    """Return an option's value for A and for B, of which an ensemble.json has none."""
    locked = [_is_lockfile(word) for word in words]
    if not given:
        return None, None
    if all(locked) or (any(locked) and len(given) > 1):
        raise UsageError(f"{option} is for members: an ensemble.json has its own views and merge")
    if len(given) > len(words):
        raise UsageError(f"{option} is given {len(given)} times: give it once for both, or once for A and once for B")
    a, b = (None if lock else value for lock, value in zip(locked, (given[0], given[-1]), strict=True))
    return a, b


def _read(word: str, views: str | None, merge: str | None) -> "Committee":
    """Return the committee that A or B names."""
    return (
        read_committee(None, Path(word), None, None) if _is_lockfile(word) else read_committee(word, None, views, merge)
    )


def _answer(
    committees: "list[Committee]", words: tuple[str, str], source: SplitSource
) -> "tuple[list[Answers], Labels]":
    """Return what both committees say by their stored predictions, through cascades, and the labels they share.

    Raises:
        DataError: their predictions are for different images.
        NotFoundError: predictions are missing.
    """
    from ensemble.cascade.stored import answers as answers_of
    from ensemble.comparison import Answers

    marks = [_fingerprint(committee, source) for committee in committees]
    both = [stored_ballots(committee, source) for committee in committees]
    if marks[0] != marks[1]:
        a, b = (f"{word} ({mark[:8]})" for word, mark in zip(words, marks, strict=True))
        raise DataError(f"{a} and {b} have predictions for different {source.name} images: nothing can be compared")
    answers = []
    for committee, ballots in zip(committees, both, strict=True):
        probs, top = answers_of(committee, ballots.votes)
        answers.append(Answers(probs, top, likelihood=committee.merge != "vote"))
    return answers, both[0].labels


def _fingerprint(committee: "Committee", source: SplitSource) -> str:
    """Return which images a committee's predictions are for; `stored_ballots` checks that all members agree."""
    origin = committee.members[0].origin
    return stored_split(origin, source).fingerprint if isinstance(origin, Entry) else source.split.fingerprint


def _describe(committee: "Committee", word: str) -> dict[str, Any]:
    """Say which ensemble was compared."""
    return {
        "name": word,
        "members": [{"name": m.name, "weight": m.weight, "temperature": m.temperature} for m in committee.members],
        "views": committee.views,
        "merge": committee.merge,
        "temperature": committee.temperature,
        "calibrated": any(t != 1 for t in _temperatures(committee)),
        **({"cascade": [asdict(stage) for stage in committee.cascade]} if committee.cascade else {}),
    }


def _temperatures(committee: "Committee") -> list[float]:
    """Return all temperatures of a committee, of which 1 changes nothing."""
    of_members = [member.temperature for member in committee.members]
    return [committee.temperature, *of_members, *(stage.temperature for stage in committee.cascade)]


def _print_table(found: "Comparison", report: dict[str, Any]) -> None:
    """Print both ensembles and their differences for people, on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    for key in "ab":
        side = report[key]
        members = f"{len(side['members'])} member{'s' if len(side['members']) > 1 else ''}"
        stages = f", a cascade of {len(side['cascade'])} stages" if "cascade" in side else ""
        how = f"views: {side['views']}, merge: {side['merge']}{stages}"
        click.echo(f"{key.upper()}: {side['name']}: {members}, {how}")
    title = f"{report['dataset']} {report['split']}, {found.images:,} images, stored predictions"
    table = Table(title=title, title_justify="left")
    for name in ("metric", "A", "B", "B - A", "95 % interval"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for metric, name in _TITLES.items():
        # Accuracy in percent and points; the area under the curve is small.
        scale, digits, unit = (100, 2, " %") if metric == "accuracy" else (1, 5 if metric == "aurc" else 4, "")
        cells = [f"{scale * e.value:.{digits}f}{unit}" if e else "" for e in (found.a[metric], found.b[metric])]
        gap = found.difference[metric]
        if gap is not None:
            low, high = (f"{scale * end:+.{digits}f}" for end in (gap.low, gap.high))
            cells += [f"{scale * gap.value:+.{digits}f}", f"{low} to {high}"]
        table.add_row(name, *cells)
    console.print(table)
    test = found.test
    click.echo(
        f"only A is right on {test.only_a:,} images, only B on {test.only_b:,}: "
        f"McNemar p = {test.p:.2g} (exact), {test.mid_p:.2g} (mid-p)"
    )
    if report["a"]["calibrated"] != report["b"]["calibrated"]:
        only = "A" if report["a"]["calibrated"] else "B"
        click.echo(f"only {only} has temperatures: some of the difference in NLL, Brier, ECE and AURC is calibration")
