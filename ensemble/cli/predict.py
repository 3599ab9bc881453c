"""`ensemble predict`: classify picture files."""

import json
from pathlib import Path
from typing import Any

import click

from ensemble.cli.options import committee_options, read_committee
from ensemble.evaluate import common_dataset
from zoo.cli.types import PATH, TEXT
from zoo.entry import Entry
from zoo.errors import DataError

__all__ = ["command"]

_DEFAULT = "fastnet-seed[1-5]"  # the builtin ones, whatever else there is


@click.command("predict")
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@committee_options
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show.")
@click.option("--device", type=TEXT, help="cpu, cuda [default: cuda if there is one].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of lines.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    pictures: tuple[Path, ...],
    members: str | None,
    lockfile: Path | None,
    views: str | None,
    merge: str | None,
    top: int,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify picture files: the top classes, and how far the members agree.

    Without --members or --ensemble, the shipped fastnets with flip answer. Pictures are scaled and cropped to the
    members' input size. A cascade asks no more members than it needs.

    \b
      ensemble predict cat.jpg truck.png
      ensemble predict --members fastnet-seed1,fastnet-seed2 --tta flip cat.jpg
    """
    default_views = None if members or lockfile else "flip"
    committee = read_committee(members, lockfile, views or default_views, merge, default=_DEFAULT)
    common_dataset(committee.members)

    import numpy as np

    from ensemble.predict import classify
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.cli.progress import Progress
    from zoo.data.pictures import read_picture

    keep_freed_memory()
    cards = [m.origin.card for m in committee.members if isinstance(m.origin, Entry)]
    if len({card.input_size for card in cards}) > 1:
        sizes = ", ".join(f"{card.name}: {card.input_size[0]} x {card.input_size[1]}" for card in cards)
        raise DataError(f"members must take pictures of one size, not {sizes}")
    size, classes = (cards[0].input_size, cards[0].classes) if cards else ((32, 32), ())
    images = np.stack([read_picture(path, size) for path in pictures])
    where = pick_device(device)
    with Progress(len(images), "classifying", "pictures", quiet=quiet) as bar:
        answer = classify(committee, images, device=where, progress=bar.advance)
    results: list[dict[str, Any]] = []
    for row, path in enumerate(pictures):
        # The committee's own class first: in a tied vote it need not be the first of the largest.
        order = sorted(range(len(classes)), key=lambda c: (c != answer.top[row], -answer.probs[row, c]))
        own = answer.member_top[:, row]  # -1 is a member that a cascade did not ask
        results.append(
            {
                "image": str(path),
                "top": [{"class": classes[c], "prob": float(answer.probs[row, c])} for c in order[:top]],
                "agree": sum(own == answer.top[row]).item(),
                "members": {m.name: classes[c] for m, c in zip(committee.members, own, strict=True) if c >= 0},
                **({} if answer.stage is None else {"stage": int(answer.stage[row]) + 1}),
            }
        )
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    for result in results:
        click.echo(_line(result))


def _line(result: dict[str, Any]) -> str:
    """Return one picture's result as a line: top classes, and who disagrees."""
    top = "  ".join(f"{t['class']} {100 * t['prob']:.1f} %" for t in result["top"])
    said = result["members"]
    others = [f"{name}: {own}" for name, own in said.items() if own != result["top"][0]["class"]]
    dissent = f" ({', '.join(others)})" if others else ""
    asked = f" asked in {result['stage']} stage{'s' if result['stage'] > 1 else ''}" if "stage" in result else ""
    return f"{result['image']}: {top}; {result['agree']} of {len(said)} members{asked} agree{dissent}"
