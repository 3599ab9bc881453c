"""Options that say which ensemble is meant and where results go, shared by the sub-commands."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ensemble.lockfile import Committee, read_lockfile
from ensemble.members import parse_members
from ensemble.merge import MERGES, Merge
from tta import view_set
from zoo.cli.complete import member_names
from zoo.cli.types import PATH, TEXT
from zoo.errors import UsageError
from zoo.files import atomic_write, check_writable

__all__ = [
    "STDOUT",
    "check_budgets",
    "check_fit",
    "check_output",
    "committee_options",
    "fit_options",
    "read_committee",
    "write_output",
]

STDOUT = Path("-")
"""Where a result goes that is to be printed."""

_F = TypeVar("_F", bound=Callable[..., Any])


def committee_options(command: _F) -> _F:
    """Add `--members`, `--ensemble`, `--tta` and `--merge` to a command."""
    for option in (
        click.option("--merge", type=TEXT, help=f"How votes are merged: {', '.join(MERGES)} [default: probs]."),
        click.option("--tta", "views", type=TEXT, help="View set: none, flip, flip+shift1, crops5 [default: none]."),
        click.option("--ensemble", "lockfile", type=PATH, help="An ensemble.json."),
        click.option(
            "--members",
            type=TEXT,
            shell_complete=member_names,
            help="Names, patterns, prediction files: A,B=1.2,'fastnet-*=0.5',other.npz.",
        ),
    ):
        command = option(command)
    return command


def read_committee(
    members: str | None, lockfile: Path | None, views: str | None, merge: str | None, *, default: str | None = None
) -> Committee:
    """Return the committee that the options name.

    Args:
        members: value of `--members`.
        lockfile: value of `--ensemble`.
        views: value of `--tta`.
        merge: value of `--merge`.
        default: members if neither is given.

    Raises:
        UsageError: not exactly one of `--members` and `--ensemble`, or an unknown view set or merge.
    """
    if lockfile is not None:
        if (members, views, merge) != (None, None, None):
            raise UsageError(
                "--ensemble FILE has its own members, views and merge: leave --members, --tta and --merge out"
            )
        return read_lockfile(lockfile)
    chosen = members or default
    if not chosen:
        raise UsageError("give --members A,B=1.2 or --ensemble FILE (`zoo list` shows what there is)")
    view_set(views or "none")
    if merge is not None and merge not in MERGES:
        raise UsageError(f"unknown --merge {merge!r}; there are {', '.join(MERGES)}")
    return Committee(tuple(parse_members(chosen)), views or "none", cast("Merge", merge or "probs"))


def fit_options(file: str) -> Callable[[_F], _F]:
    """Return what adds `-o`, `--json` and `--dry-run` to a command that fits and writes a lockfile, usually `file`."""

    def add(command: _F) -> _F:
        for option in (
            click.option("--dry-run", is_flag=True, help="Fit and print; write nothing."),
            click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of the table."),
            click.option("-o", "--output", type=PATH, help=f"The lockfile to write: {file}, or - for stdout."),
            click.option("--split", hidden=True),  # to say why there is none
        ):
            command = option(command)
        return command

    return add


def check_fit(
    split: str | None,
    output: Path | None,
    *,
    dry_run: bool,
    as_json: bool = False,
    inputs: Iterable[Path] = (),
) -> None:
    """Raise `UsageError` before any work if another split is asked for, or if there is nowhere to write.

    Args:
        split: value of `--split`.
        output: value of `-o`.
        dry_run: whether nothing is written.
        as_json: whether the result goes to stdout, too.
        inputs: files that are read, and must stay.
    """
    if split not in {None, "val"}:
        raise UsageError(f"--split {split!r}: a fit reads the validation split only; `ensemble eval` scores the others")
    if output is None and not dry_run:
        raise UsageError("give -o FILE for the lockfile, or --dry-run to see what it would be")
    if output == STDOUT and as_json and not dry_run:
        raise UsageError("-o - and --json both write to stdout: give one of them")
    check_output("-o", output, inputs)


def check_output(option: str, path: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Refuse before any work what cannot be written.

    Raises:
        UsageError: a file cannot lie there, or is one of those that are read.
        StorageError: the folder takes none.
    """
    if path is None or path == STDOUT:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {str(path)!r} is not a file in an existing folder")
    if path.is_file() or not path.exists():  # and no device
        check_writable(path.parent)
    if any(path.resolve() == other.resolve() for other in inputs):
        raise UsageError(f"{option} {str(path)!r} would overwrite what is read: give another file")


def write_output(path: Path, text: str) -> None:
    """Write text to a file, whole or not at all, or print it if the path is `-`; `StorageError` if the disk refuses."""
    if path == STDOUT:
        click.echo(text, nl=False)
    else:
        atomic_write(path, text.encode())


def check_budgets(macs: float | None, milliseconds: float | None) -> None:
    """Raise `UsageError` if there are two budgets, or one that makes no sense."""
    if macs is not None and milliseconds is not None:
        raise UsageError("give one of --budget-macs and --budget-ms")
    for option, value in (("--budget-macs", macs), ("--budget-ms", milliseconds)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} {value:g}: a budget is a finite number above 0")
