"""`zoo verify`: check that entries are what they were published as."""

from collections.abc import Mapping
from pathlib import Path

import click

from zoo import store
from zoo.cli.complete import entry_names, source_names
from zoo.cli.progress import Progress
from zoo.entry import Entry
from zoo.errors import CorruptError, MenagerieError, UsageError

__all__ = ["command"]


@click.command("verify")
@click.argument("patterns", metavar="[NAME...]", nargs=-1, shell_complete=entry_names)
@click.option("--all", "everything", is_flag=True, help="Every name there is.")
@click.option("--from", "source", shell_complete=source_names, help="Source folder [default: all sources].")
@click.option("--fix", is_flag=True, help="Bring damaged entries of the cache again, from where they came.")
@click.option("--predictions", is_flag=True, help="Run the networks and compare with the stored logits.")
@click.option("--split", type=click.Choice(["test", "val"]), help="With --predictions [default: test].")
@click.option("--limit", type=click.IntRange(min=1), help="With --predictions: only the first N stored rows.")
@click.option("--data", type=click.Path(path_type=Path), help="With --predictions: folder with the data.")
@click.option("--device", help="With --predictions: cpu, cuda [default: cuda if there is one].")
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
    quiet: bool,
) -> int:
    """Check every file's sha256 and form; with --predictions, also that the stored logits are the network's.

    Only what is on this machine is checked; no network is needed, unless --fix has something to bring.

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
    entries = [e for p in (patterns or ("*",)) for e in store.resolve(p, store.local(store.asked(source)))]
    failed = 0
    for found in entries:
        try:
            entry = _sound(found, fix=fix)
            said = _said(entry)
            if predictions:
                said += "; " + _compare(entry, split or "test", limit, data, device, quiet=quiet)
        except MenagerieError as error:
            failed += 1
            click.echo(f"error: {found.name}: {error}", err=True)
        else:
            if not quiet:
                click.echo(f"{entry.name}: {said}")
    return 1 if failed else 0


def _refuse(options: Mapping[str, object]) -> None:
    """Raise `UsageError` if an option is given that only goes with --predictions."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} goes with --predictions")


def _sound(entry: Entry, *, fix: bool) -> Entry:
    """Return the entry once it is verified, with `fix` after bringing it again if it is damaged."""
    try:
        entry.verify()
    except MenagerieError as error:
        if not fix:
            raise
        click.echo(f"{entry.name}: {error}; bringing it again", err=True)
        return store.repair(entry)
    return entry


def _said(entry: Entry) -> str:
    files = f"{len(entry.sums) - len(entry.missing)} files match {entry.folder.name}/SHA256SUMS"
    return f"{files}; the weights are not here" if entry.partial else files


def _compare(entry: Entry, split: str, limit: int | None, data: Path | None, device: str | None, *, quiet: bool) -> str:
    """Run an entry's network and return what the comparison with its stored logits found."""
    from tta.stored import TOLERANCE, largest_difference
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.data import load_split

    keep_freed_memory()
    where = pick_device(device)
    card = entry.card
    images = load_split(card.dataset, split, data, size=card.input_size, classes=card.classes)
    rows = min(limit or len(images), len(images))
    with Progress(rows, entry.name, "images", quiet=quiet) as bar:
        found = largest_difference(entry, split, images, rows, device=where, progress=bar.advance)
    if found > TOLERANCE:
        raise CorruptError(f"the stored logits differ by up to {found:.3g} from the network's ({TOLERANCE} is allowed)")
    return f"stored logits within {found:.2g} of the network's on {rows:,} {split} images"
