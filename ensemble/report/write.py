"""Writing a report: the page, and the same as JSON, CSV, SVG and PNG."""

import json
from pathlib import Path

from ensemble.report.ink import png, svg
from ensemble.report.page import drawings, page
from ensemble.report.record import Record
from ensemble.report.tables import tables, to_csv
from zoo.files import atomic_write, storage_errors

__all__ = ["to_json", "write", "write_plots"]


def to_json(record: Record) -> str:
    """Return all of a record as JSON."""
    return json.dumps(record.to_dict(), indent=1) + "\n"


def write(
    record: Record,
    output: Path,
    *,
    csv_to: Path | None = None,
    plots_to: Path | None = None,
) -> None:
    """Write a report; each file whole or not at all.

    Args:
        record: what it says.
        output: the page.
        csv_to: a folder for `TABLE.csv`, made if it is not there.
        plots_to: likewise for `PLOT.svg` and `PLOT.png`.

    Raises:
        StorageError: the disk refuses.
    """
    atomic_write(output, page(record).encode())
    for folder in (csv_to, plots_to):
        if folder is not None:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
    if csv_to is not None:
        for name, table in tables(record).items():
            atomic_write(csv_to / f"{name}.csv", to_csv(table).encode())
    if plots_to is not None:
        write_plots(record, plots_to)


def write_plots(record: Record, folder: Path) -> None:
    """Write all plots of a record into an existing folder, in light colours; equal records give equal files."""
    for name, drawing in drawings(record).items():
        atomic_write(folder / f"{name}.svg", svg(drawing.figure, drawing.tips, drawing.alt).encode())
        atomic_write(folder / f"{name}.png", png(drawing.figure))
