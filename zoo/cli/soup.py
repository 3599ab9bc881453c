"""`zoo soup`: the mean of several entries' weights becomes an entry."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import store
from zoo.cli.complete import entry_names
from zoo.cli.group import complain
from zoo.cli.progress import Progress
from zoo.cli.types import PATH, TEXT
from zoo.errors import MenagerieError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from training.averaging.soup import Soup
    from zoo.data import Split
    from zoo.entry import Entry
    from zoo.predictions import SplitPredictions

__all__ = ["command"]


@click.command("soup")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True, type=TEXT, shell_complete=entry_names)
@click.option("--uniform", is_flag=True, help="The mean of all.")
@click.option("--greedy", is_flag=True, help="From the best on, take whatever does not lower the accuracy.")
@click.option("--name", type=TEXT, required=True, help="Name of the new entry.")
@click.option("--data", type=PATH, help="Folder with the data [default: ZOO_DATA].")
@click.option("--device", help="cpu, cuda, cuda:1 [default: cuda if there is one].")
@click.option("--to", type=PATH, help="Source folder to file it in [default: the cache].")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@click.option("--force", is_flag=True, help="With --uniform: file it even if clearly worse than every member.")
@click.option("--dry-run", is_flag=True, help="Make and judge the soup, but file nothing.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    patterns: tuple[str, ...],
    uniform: bool,
    greedy: bool,
    name: str,
    data: Path | None,
    device: str | None,
    to: Path | None,
    replace: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Average the weights of entries and file the result: one network, as fast as each of them.

    This works for networks from one start: snapshots of one run, or fine-tunings of one network. Networks of different
    seeds have no useful mean: `ensemble` is for them. The soup is judged on the validation split, with flip;
    BatchNorm's statistics are computed anew on training images. If --greedy takes only the best network, or the mean of
    --uniform is clearly worse than every member, nothing is filed and the exit code is 1.

    \b
      zoo soup 'mine-snapshot*' mine --greedy --name mine-soup --data cifar10/
      zoo soup mine-snapshot1 mine-snapshot2 --uniform --name mine-mean --dry-run
    """
    if uniform == greedy:
        raise UsageError("give one of --uniform (the mean of all) and --greedy (the mean of those that help)")
    if force and greedy:
        raise UsageError("--force goes with --uniform: a greedy soup is never worse than its best member")
    from training.parents import check_data, check_parents, stored_validation

    target = (to or store.cache_folder()) / name
    store.check_new(name, target.parent, replace=replace)
    parents = [entry for pattern in patterns for entry in store.resolve(pattern)]
    if any(parent.folder.resolve() == target.resolve() for parent in parents):
        raise UsageError(f"--name {name!r} is one of the members: choose another")
    check_parents(parents)
    stored = [stored_validation(parent) for parent in parents]

    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.data import load_all
    from zoo.files import check_writable

    where, card = pick_device(device), parents[0].card
    keep_freed_memory()
    if not dry_run:
        check_writable(target.parent)
    part, val, test = load_all(card.dataset, data, size=card.input_size)
    check_data(card, part, val, str(data or os.environ.get("ZOO_DATA", card.dataset)))
    alone = _accuracies(stored)
    soup = _cook(parents, alone, part, val, where, greedy=greedy, quiet=quiet)
    found = _report(parents, alone, soup) | {"ensemble": {"accuracy": _together(stored)}}
    if as_json:
        click.echo(json.dumps({"name": name, "how": "greedy" if greedy else "uniform", **found}, indent=1))
    else:
        _print_table(found, card.dataset, len(val), greedy=greedy)
    warning = _verdict(found, len(val), force=force)
    if warning:
        complain(warning)
    if not dry_run:
        taken = [parent for parent in parents if parent.name in soup.taken]
        about = _about(soup, parents, part)
        with Progress(len(val) + len(test), "predictions", "images", quiet=quiet) as bar:
            _file(soup.net, taken, about, {"val": val, "test": test}, target, where, bar, replace=replace)
        said = f"{target}: {_percent(soup.accuracy)} on the validation split with flip"
        click.echo(said, err=as_json)


def _accuracies(stored: "Sequence[SplitPredictions]") -> list[float]:
    """Return each member's accuracy with flip, as its card has it."""
    from zoo.scores import accuracies

    return [accuracies(predictions)["flip"] for predictions in stored]


def _together(stored: "Sequence[SplitPredictions]") -> float:
    """Return the accuracy of the ensemble of all members, with flip."""
    import numpy as np

    from ensemble.merge import Vote, merge

    votes = [Vote(np.stack([one.views["none"], one.views["flip"]]), (0.5, 0.5)) for one in stored]
    return round(float((merge(votes, "probs")[1] == stored[0].labels).mean()), 5)


def _cook(
    parents: "Sequence[Entry]",
    alone: Sequence[float],
    part: "Split",
    val: "Split",
    device: "torch.device",
    *,
    greedy: bool,
    quiet: bool,
) -> "Soup":
    """Make the soup, behind a progress bar."""
    from functools import partial

    from training.averaging.soup import Ingredient, greedy_soup, plain_batches, statistics_images, uniform_soup
    from tta.stored import predict_split

    stats = (parents[0].card.mean, parents[0].card.std)
    each = statistics_images(len(part)) + len(val)

    def load(parent: "Entry") -> "nn.Module":
        return parent.load().to(device)

    with Progress(each * (len(parents) - 1 if greedy else 1), "judging", "images", quiet=quiet) as bar:

        def judge(net: "nn.Module") -> float:
            return _accuracies([predict_split(net, val, stats, device, bar.advance)])[0]

        ingredients = [Ingredient(p.name, right, partial(load, p)) for p, right in zip(parents, alone, strict=True)]
        make = greedy_soup if greedy else uniform_soup
        return make(ingredients, plain_batches(part, stats, device, bar.advance), judge)


def _report(parents: "Sequence[Entry]", alone: Sequence[float], soup: "Soup") -> dict[str, Any]:
    """Return what --json prints; accuracies are fractions, on the validation split with flip."""
    members = [
        {
            "name": parent.name,
            "sha256": parent.weights_digest,
            "accuracy": accuracy,
            "taken": parent.name in soup.taken,
            "soup_with_it": soup.tried.get(parent.name),
        }
        for parent, accuracy in zip(parents, alone, strict=True)
    ]
    return {
        "dataset": parents[0].card.dataset,
        "split": "val",
        "views": ["none", "flip"],
        "members": members,
        "soup": {"members": list(soup.taken), "accuracy": soup.accuracy},
    }


def _ranked(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the members in the order in which a greedy soup tries them: the best first."""
    return sorted(found["members"], key=lambda m: (-m["accuracy"], m["name"]))


def _print_table(found: dict[str, Any], dataset: str, images: int, *, greedy: bool) -> None:
    """Print the report for people, on stdout."""
    from zoo.cli.table import Column, layout

    ranked = _ranked(found)
    best, count = ranked[0], len(found["soup"]["members"])
    below = {
        f"soup of {count}": found["soup"]["accuracy"],
        f"best member, {best['name']}": best["accuracy"],
        f"ensemble of all {len(ranked)}, for comparison": found["ensemble"]["accuracy"],
    }
    rest = [""] * len(below)
    tried = ["" if m["soup_with_it"] is None else _percent(m["soup_with_it"]) for m in ranked]
    columns = [
        Column("member", [*(m["name"] for m in ranked), *below]),
        Column("accuracy", [*(_percent(m["accuracy"]) for m in ranked), *map(_percent, below.values())], right=True),
        *([Column("soup with it", [*tried, *rest], right=True)] if greedy else []),
        Column("taken", [*("yes" if m["taken"] else "no" for m in ranked), *rest]),
    ]
    lines = layout(columns)[0]
    click.echo(f"{dataset} val, {images:,} images, views: none, flip\n")
    click.echo("\n".join([*lines[: len(ranked) + 1], "", *lines[len(ranked) + 1 :]]))


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def _verdict(found: dict[str, Any], images: int, *, force: bool) -> str:
    """Return what must be said of a soup that is filed; raise `MenagerieError` if nobody would want it.

    Clearly worse than a member is below the 95 % interval of the member's accuracy.
    """
    from ensemble.metrics import wilson_interval

    ranked = _ranked(found)
    best, worst, accuracy = ranked[0], ranked[-1], found["soup"]["accuracy"]
    floor = wilson_interval(round(worst["accuracy"] * images), images)[0]
    apart = "these networks were not trained from one start, or have moved too far apart since"
    if len(found["soup"]["members"]) == 1:
        tried = [m["soup_with_it"] for m in ranked[1:]]
        because = f" ({apart}: an ensemble of them may help)" if max(tried) < floor else ""
        raise MenagerieError(
            f"nothing was gained, so nothing was filed: every soup is worse than {best['name']!r} alone{because}"
        )
    if accuracy < floor:
        said = f"the soup, {_percent(accuracy)}, is clearly worse than its worst member {worst['name']!r}: {apart}"
        if not force:
            raise MenagerieError(f"{said}; nothing was filed (--force files it)")
        return f"warning: {said}"
    if accuracy < best["accuracy"]:
        return f"note: {best['name']!r} alone is better than the soup; --greedy takes only what helps"
    return ""


def _about(soup: "Soup", parents: "Sequence[Entry]", part: "Split") -> dict[str, Any]:
    """Return how a soup was made, for its card."""
    from training.averaging.soup import statistics_images

    images = f"{statistics_images(len(part)):,} training images, not augmented"
    about: dict[str, Any] = {
        "weights": f"uniform soup: the mean of {len(soup.taken)} networks",
        "statistics": f"BatchNorm's, where there is any, of {images}",
    }
    if soup.tried:
        about["weights"] = (
            f"greedy soup (arXiv:2203.05482): the mean of {len(soup.taken)} of {len(parents)} networks, "
            "chosen on the validation split"
        )
        about["candidates"] = sorted(parent.name for parent in parents)
    return about


def _file(
    net: "nn.Module",
    taken: "Sequence[Entry]",
    about: dict[str, Any],
    splits: "dict[str, Split]",
    target: Path,
    device: "torch.device",
    bar: Progress,
    *,
    replace: bool,
) -> None:
    """File the soup as an entry, with its predictions."""
    from training.parents import soup_card
    from training.publish import file_network

    card = soup_card(target.name, taken, about)
    file_network(net, card, splits, target, device=device, replace=replace, progress=bar.advance)
