"""`zoo verify`: check that entries are what they were published as."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from zoo import store
from zoo.cli.complete import entry_names, source_names
from zoo.cli.group import complain
from zoo.cli.progress import Progress
from zoo.cli.table import printable
from zoo.cli.types import PATH, TEXT
from zoo.entry import PREDICTIONS, Entry
from zoo.errors import MenagerieError, UsageError
from zoo.names import is_pattern

__all__ = ["command"]


@click.command("verify")
@click.argument("patterns", metavar="[NAME...]", nargs=-1, type=TEXT, shell_complete=entry_names)
@click.option("--all", "everything", is_flag=True, help="Every name there is.")
@click.option("--from", "source", type=TEXT, shell_complete=source_names, help="Source folder [default: all sources].")
@click.option("--fix", is_flag=True, help="Bring damaged entries of the cache again, from where they came.")
@click.option("--predictions", is_flag=True, help="Run the networks and compare with the stored logits.")
@click.option("--split", type=click.Choice(["test", "val"]), help="With --predictions [default: test].")
@click.option("--limit", type=click.IntRange(min=1), help="With --predictions: only the first N stored rows.")
@click.option("--data", type=PATH, help="With --predictions: folder with the data.")
@click.option("--device", help="With --predictions: cpu, cuda [default: cuda if there is one].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: a list of what was found, one an entry.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    patterns: tuple[str, ...],
    everything: bool,
    source: str | None,
    fix: bool,
    predictions: bool,
    split: str | None,
    limit: int | None,
    data: Path | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Check every file's sha256 and form; with --predictions, also that the stored logits are the network's.

    Only what is on this machine is checked; no network is needed, unless --fix has something to bring. With
    --predictions, --all and patterns pass over entries without weights here or without stored predictions.

    With --json, an entry has name, folder, ok, error, state (`whole`, `predictions only`, `external`), files (how many
    match their sums), difference (the largest of a stored logit from the network's), split and images (that were
    compared) and skipped (why they were not); what does not apply is null.

    \b
      zoo verify fastnet-seed1
      zoo verify --all --fix
      zoo verify fastnet-seed1 --predictions --limit 1000
    """
    if bool(patterns) == everything:
        raise UsageError("give NAME... or --all")
    if not predictions:
        _refuse({"--split": split, "--limit": limit, "--data": data, "--device": device})
    if predictions:
        from zoo.cli.device import pick_device

        pick_device(device)  # a wrong one is no entry's fault
    comparison = _Comparison(split or "test", limit, data, device, quiet=quiet) if predictions else None
    among = store.local(store.asked(source))
    entries = {entry.name: entry for p in (patterns or ("*",)) for entry in store.resolve(p, among)}
    named = {p for p in patterns if not is_pattern(p)}
    found = []
    for name, entry in entries.items():
        check = _check(entry, comparison, fix=fix, named=name in named)
        found.append(check)
        if check.error is not None:
            complain(f"error: {name}: {check.error}")
        elif not quiet and not as_json:
            click.echo(printable(f"{name}: {check}"))
    if as_json:
        click.echo(json.dumps([check.table() for check in found], indent=1))
    return 1 if any(check.error is not None for check in found) else 0


def _refuse(options: Mapping[str, object]) -> None:
    """Raise `UsageError` if an option is given that only goes with --predictions."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} goes with --predictions")


@dataclass(frozen=True)
class _Check:
    """What was found of an entry; None where it does not apply."""

    name: str
    folder: str
    error: str | None = None
    state: str | None = None
    files: int | None = None
    difference: float | None = None
    split: str | None = None
    images: int | None = None
    skipped: str | None = None

    def table(self) -> dict[str, Any]:
        """Return what --json has of it."""
        about = asdict(self)
        return {"name": about.pop("name"), "folder": about.pop("folder"), "ok": self.error is None} | about

    def __str__(self) -> str:
        said = f"{self.files} files match {Path(self.folder).name}/SHA256SUMS"
        if self.state == "predictions only":
            said += "; the weights are not here"
        if self.skipped is not None:
            return f"{said}; logits not compared: {self.skipped}"
        if self.difference is None:
            return said
        where = f"on {self.images:,} {self.split} images"
        return f"{said}; stored logits within {self.difference:.2g} of the network's {where}"


@dataclass(frozen=True)
class _Comparison:
    """How stored logits are compared with the network's: the values of the options."""

    split: str
    limit: int | None
    data: Path | None
    device: str | None
    quiet: bool


def _check(found: Entry, comparison: _Comparison | None, *, fix: bool, named: bool) -> _Check:
    """Check an entry; one that cannot be compared is an error only if it was asked for by its name."""
    try:
        entry = _sound(found, fix=fix)
        state = "external" if entry.external else "predictions only" if entry.partial else "whole"
        files = len(entry.sums) - len(entry.missing)
    except MenagerieError as error:
        return _Check(found.name, str(found.folder), str(error))
    check = _Check(entry.name, str(entry.folder), state=state, files=files)
    if comparison is None:
        return check
    why = {"external": "there is no network to run", "predictions only": f"`zoo pull {entry.name}` first"}.get(state)
    if why is None and PREDICTIONS not in entry.sums:
        why = "there are no stored ones"
    if why is not None:
        return replace(check, error=f"its logits cannot be compared: {why}") if named else replace(check, skipped=why)
    return _compare(entry, check, comparison)


def _sound(entry: Entry, *, fix: bool) -> Entry:
    """Return the entry once it is verified, with `fix` after bringing it again if it is damaged."""
    try:
        entry.verify()
    except MenagerieError as error:
        if not fix:
            raise
        complain(f"{entry.name}: {error}; bringing it again")
        return store.repair(entry)
    return entry


def _compare(entry: Entry, check: _Check, how: _Comparison) -> _Check:
    """Run an entry's network, and add what the comparison with its stored logits found."""
    from tta.stored import TOLERANCE, largest_difference
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.data import load_split

    keep_freed_memory()
    where, card = pick_device(how.device), entry.card
    try:
        images = load_split(card.dataset, how.split, how.data, size=card.input_size, classes=card.classes)
        rows = min(how.limit or len(images), len(images))
        with Progress(rows, entry.name, "images", quiet=how.quiet) as bar:
            found = largest_difference(entry, how.split, images, rows, device=where, progress=bar.advance)
    except MenagerieError as error:
        return replace(check, error=str(error))
    wrong = f"the stored logits differ by up to {found:.3g} from the network's ({TOLERANCE} is allowed)"
    return replace(check, difference=found, split=how.split, images=rows, error=wrong if found > TOLERANCE else None)
