"""Progress of long work on stderr: a bar on a terminal; in a pipe, ten plain lines at most, seconds apart."""

import sys
import time
from types import TracebackType
from typing import Self

import click

from zoo.cli.group import one_line

__all__ = ["Progress"]

_LINES = 10
_APART = 3.0
"""Seconds between two lines in a pipe, and before the first: what is done sooner needs none."""


class Progress:
    """Counts work done and shows it with its rate.

    Args:
        total: how much there is to do.
        label: what is being done.
        unit: what is counted, e.g. `images`.
        quiet: show nothing.
        done: how much of it is done already, by an earlier run.
    """

    def __init__(self, total: float, label: str, unit: str, *, quiet: bool = False, done: float = 0) -> None:
        self._total, self._unit, self._label, self._quiet = total, unit, label, quiet
        self._done = self._first = done
        self._began = self._said = time.monotonic()
        self._shown = self._tenths
        self._bar = None if quiet or not sys.stderr.isatty() else _Bar(total, label, unit, done)

    def advance(self, amount: float) -> None:
        """Say that `amount` more is done; what is beyond the total, as work that is done twice, is not shown."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(min(self._done, self._total), self.rate)
        elif self._tenths > self._shown and time.monotonic() - self._said >= _APART:
            self._shown, self._said = self._tenths, time.monotonic()
            done = min(self._done, self._total)
            self.note(f"{self._label}: {done:,.0f}/{self._total:,.0f} {self._unit}, {self.rate:,.4g} {self._unit}/s")

    def relabel(self, label: str) -> None:
        """Say what is being done from now on."""
        self._label = label
        if self._bar is not None:
            self._bar.relabel(label)

    def note(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.note(one_line(text))
        elif not self._quiet:
            click.echo(one_line(text), err=True)

    @property
    def seconds(self) -> float:
        """Seconds since this began."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Units a second, on the average since this began."""
        return (self._done - self._first) / max(self.seconds, 1e-9)

    @property
    def _tenths(self) -> float:
        return min(self._done, self._total) * _LINES // max(self._total, 1)

    def __enter__(self) -> Self:
        """Start showing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop showing."""
        if self._bar is not None:
            self._bar.stop()


class _Bar:
    """A rich progress bar on stderr."""

    def __init__(self, total: float, label: str, unit: str, done: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TextColumn("{task.fields[rate]:,.4g} " + unit + "/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._rich.add_task(label, total=total, rate=0.0)
        self._rich.update(self._task, completed=done)
        self._rich.start()

    def update(self, done: float, rate: float) -> None:
        self._rich.update(self._task, completed=done, rate=rate)

    def relabel(self, label: str) -> None:
        self._rich.update(self._task, description=label)

    def note(self, text: str) -> None:
        self._rich.console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        self._rich.stop()
