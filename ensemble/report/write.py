"""Writing a report: the page, and the same as JSON, CSV, SVG and PNG."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ensemble.report.ink import png, svg
from ensemble.report.page import drawings, page
from ensemble.report.record import Record
from ensemble.report.tables import tables, to_csv
from zoo.errors import StorageError
from zoo.files import atomic_write, storage_errors

__all__ = ["to_json", "write", "write_plots"]


def to_json(record: Record) -> str:
    """Return all of a record as JSON."""
    return json.dumps(record.to_dict(), indent=1) + "\n"


def write(
    record: Record,
    output: Path,
    *,
    json_to: Path | None = None,
    csv_to: Path | None = None,
    plots_to: Path | None = None,
) -> dict[Path, StorageError]:
    """Write a report, the page first; each file whole or not at all, and what fails takes nothing else with it.

    Args:
        record: what it says.
        output: the page.
        json_to: a file for all of it as JSON.
        csv_to: a folder for `TABLE.csv`, made if it is not there.
        plots_to: likewise for `PLOT.svg` and `PLOT.png`.

    Returns:
        Which of these paths the disk refused, and why; empty if all is written.
    """
    refused: dict[Path, StorageError] = {}

    def attempt(path: Path | None, make: Callable[[Path], None]) -> None:
        if path is not None:
            try:
                make(path)
            except StorageError as error:
                refused[path] = error

    attempt(output, lambda file: atomic_write(file, page(record).encode()))
    attempt(json_to, lambda file: atomic_write(file, to_json(record).encode()))
    attempt(csv_to, partial(_write_tables, record))
    attempt(plots_to, partial(write_plots, record))
    return refused


def _write_tables(record: Record, folder: Path) -> None:
    _make(folder)
    for name, table in tables(record).items():
        atomic_write(folder / f"{name}.csv", to_csv(table).encode())


def write_plots(record: Record, folder: Path) -> None:
    """Write all plots of a record, in light colours; equal records give equal files.

    Args:
        record: with plots.
        folder: for `PLOT.svg` and `PLOT.png`, made if it is not there.

    Raises:
        StorageError: the disk refuses.
    """
    _make(folder)
    for name, drawing in drawings(record).items():
        atomic_write(folder / f"{name}.svg", svg(drawing.figure, drawing.tips, drawing.alt).encode())
        atomic_write(folder / f"{name}.png", png(drawing.figure))


def _make(folder: Path) -> None:
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)  # not its parents: a folder that is misspelt is refused
