"""`zoo pull`: bring an entry into the cache."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zoo import store
from zoo.cli.complete import entry_names
from zoo.cli.progress import Progress
from zoo.cli.table import printable
from zoo.cli.types import TEXT
from zoo.entry import Entry
from zoo.errors import NotFoundError
from zoo.origins import Share
from zoo.pull import missing_bytes, pull_entry, resumed_bytes
from zoo.sources.remote import RemoteEntry

__all__ = ["command"]

_SOON = 2_000_000
"""Bytes that need no progress bar."""

_THERE = "there already"


@click.command("pull")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True, type=TEXT, shell_complete=entry_names)
@click.option(
    "--from",
    "source",
    type=TEXT,
    help="Folder, hf://org/repo[/sub], s3://... or https://... [default: all sources].",
)
@click.option("--revision", type=TEXT, help="With --from hf://...: branch, tag or commit.")
@click.option("--predictions-only", is_flag=True, help="Leave out the weights; evaluating needs no more.")
@click.option("--replace", is_flag=True, help="Bring all of it again, even if the cache has an entry of this name.")
@click.option("--dry-run", is_flag=True, help="Only say what would be pulled.")
@click.option(
    "--json", "as_json", is_flag=True, help="JSON on stdout: a list of name, source, folder, bytes and state."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    patterns: tuple[str, ...],
    source: str | None,
    revision: str | None,
    predictions_only: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bring entries into the cache; every file's sha256 is checked, and nothing is left half-copied.

    A transfer that broke off goes on where it was when the same command runs again. With --json, the state of each
    entry is `pulled`, `there already` or `would pull`, and bytes are those of the files that it was brought for.

    \b
      zoo pull pyramid272-seed1
      zoo pull 'fastnet-*' --from /mnt/team-zoo
      zoo pull 'wrn*' --from hf://team/zoo --revision v1 --predictions-only
    """
    asked = store.asked(source, revision=revision, afresh=replace)
    share: Share = "predictions" if predictions_only else "all"
    found: dict[str, Entry | RemoteEntry] = {}
    for pattern in patterns:
        try:
            found |= {entry.name: entry for entry in store.look_up(pattern, asked)}
        except NotFoundError as error:
            raise NotFoundError(f"{error}{_how_to_train(pattern)}") from error
    plans = [_Plan.of(entry, share, replace=replace) for entry in found.values()]  # a refusal pulls nothing
    done: list[dict[str, Any]] = []
    try:
        for plan in plans:
            said = plan.would() if dry_run else plan.carry_out(share, replace=replace, quiet=quiet)
            done.append(plan.row(dry_run=dry_run))
            if not as_json and (dry_run or not quiet):
                click.echo(printable(said))
    finally:
        if as_json:  # what was brought is said, also where the next one failed
            click.echo(json.dumps(done, indent=1))


@dataclass(frozen=True)
class _Plan:
    """What is to be done for an entry: to bring some bytes of it, or only to verify what is there."""

    found: Entry | RemoteEntry
    offer: RemoteEntry | None
    bytes: int
    folder: Path

    @classmethod
    def of(cls, found: Entry | RemoteEntry, share: Share, *, replace: bool) -> "_Plan":
        here = isinstance(found, Entry) and store.is_here(found) and not replace
        if isinstance(found, Entry) and here and (share == "predictions" or not found.missing):
            return cls(found, None, 0, found.folder)
        offer = store.offer(found)
        return cls(found, offer, missing_bytes(offer, share, replace=replace), store.cache_folder() / found.name)

    def would(self) -> str:
        if self.offer is None:
            return f"{self.found.name}: {_THERE} ({self.found.source})"
        return f"{self.found.name}: would pull {self.bytes / 1e6:.1f} MB from {self.offer.row().where}"

    def row(self, *, dry_run: bool) -> dict[str, Any]:
        """Return what --json has of it, once it is carried out or, with `dry_run`, before."""
        state = _THERE if self.offer is None else "would pull" if dry_run else "pulled"
        return {
            "name": self.found.name,
            "source": (self.offer or self.found).source,
            "folder": str(self.folder),
            "bytes": self.bytes,
            "state": state,
        }

    def carry_out(self, share: Share, *, replace: bool, quiet: bool) -> str:
        if self.offer is None:
            return f"{self.found.name}: verified in {store.pull(self.found, share).folder}"
        done = resumed_bytes(self.offer, share)
        quiet = quiet or self.bytes - done < _SOON
        with Progress(self.bytes / 1e6, self.found.name, "MB", quiet=quiet, done=done / 1e6) as bar:
            entry = pull_entry(self.offer, share, replace=replace, progress=lambda amount: bar.advance(amount / 1e6))
        what = "predictions only" if entry.missing else f"{entry.size / 1e6:.1f} MB"
        return f"{entry.name}: {what} from {self.offer.source}, in {entry.folder}"


def _how_to_train(name: str) -> str:
    """Return how to train an entry of this name, if a recipe could make one, or an empty string."""
    from training.recipe_file import recipe_names
    from zoo.data import DATASETS

    recipe, _, seed = name.rpartition("-seed")
    dataset = next((d for d in DATASETS if recipe.endswith(f"-{d}")), "")
    recipe, option = recipe.removesuffix(f"-{dataset}"), f" --dataset {dataset}" if dataset else ""
    if recipe in recipe_names() and seed.isdigit():
        return f"; to train it: zoo train {recipe} --seed {seed}{option} --data DIR"
    return ""
