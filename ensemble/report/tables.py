"""The tables of a report: what the page shows beside its plots, and what `--csv` writes."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ensemble.report.front import MILLISECONDS, MULTIPLY_ADDS, cost
from ensemble.report.record import Point, Record, Scores

__all__ = ["Cell", "Table", "axis_unit", "shown_curves", "tables", "to_csv"]

Cell = str | int | float | None

_CURVES = 6


@dataclass(frozen=True)
class Table:
    """A table; the values are raw: fractions, milliseconds.

    Attributes:
        name: of its CSV file.
        title: for people.
        columns: headers; a unit in brackets, where there is one.
        rows: as many cells each.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns have numbers."""
        return tuple(any(isinstance(row[i], int | float) for row in self.rows) for i in range(len(self.columns)))

    def without(self, *columns: str) -> "Table":
        """Return the table without some columns."""
        return self._of([i for i, column in enumerate(self.columns) if column not in columns])

    def filled(self) -> "Table":
        """Return the table without columns that say nothing in any row."""
        return self._of([i for i in range(len(self.columns)) if any(row[i] not in {None, ""} for row in self.rows)])

    def _of(self, kept: Sequence[int]) -> "Table":
        columns = tuple(self.columns[i] for i in kept)
        return replace(self, columns=columns, rows=tuple(tuple(row[i] for i in kept) for row in self.rows))


def to_csv(table: Table) -> str:
    """Return a table as CSV (RFC 4180) with a header; None is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front: names come from other people's cards.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([[_harmless(cell) for cell in row] for row in (table.columns, *table.rows)])
    return buffer.getvalue()


def _harmless(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def axis_unit(record: Record) -> str:
    """Return the unit of the front's cost: milliseconds, if anything was measured, else multiply-adds."""
    return MILLISECONDS if any(cost(p, MILLISECONDS) is not None for p in record.points) else MULTIPLY_ADDS


def shown_curves(record: Record) -> list[int]:
    """Return the numbers of the points whose latency distribution is drawn: the chosen, cascades, then the front."""
    timed = [i for i, p in enumerate(record.points) if p.latency is not None and p.latency.quantiles]
    first = [i for i in timed if i in {record.chosen, record.closeup.point}]
    special = [i for i in timed if record.points[i].kind in {"cascade", "ensemble"}]
    on = [i for i in timed if record.points[i].front]
    spread = on[:: max(1, len(on) // _CURVES)]
    return sorted(list(dict.fromkeys([*first, *special, *spread]))[:_CURVES])


def tables(record: Record) -> dict[str, Table]:
    """Return all tables of a record by name; those without rows are left out."""
    made = [
        _points(record),
        _members(record),
        _latency(record),
        _reliability(record),
        _confusion(record),
        _classes(record),
        _agreement(record),
        _diversity(record),
        _mistakes(record),
        Table(
            "hardware", "Hardware and versions", ("what", "value"), tuple((k, v) for k, v in record.hardware.items())
        ),
    ]
    return {table.name: table for table in made if table.rows}


_SCORES = ("accuracy", "accuracy low", "accuracy high", "NLL (nats)", "Brier", "ECE", "adaptive ECE", "AURC")


def _scores(s: Scores) -> tuple[Cell, ...]:
    return (s.accuracy, *s.accuracy_ci95, s.nll, s.brier, s.ece, s.adaptive_ece, s.aurc)


def _points(record: Record) -> Table:
    columns = (
        *("name", "kind", "members", "teacher", "views", "precision", "runtime", "front", "chosen"),
        *_SCORES,
        *("answers", "validation accuracy", "validation NLL (nats)", "validation precision"),
        "multiply-adds (G)",
        *("batch", "runs", "median (ms)", "p90 (ms)", "p99 (ms)", "mean (ms)"),
        *("large batch", "median of the large batch (ms)", "p99 of the large batch (ms)", "images/s"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            *(p.name, p.kind, " ".join(p.members), p.teacher, p.views, p.precision, p.runtime),
            *("yes" if p.front else "", "yes" if i == record.chosen else ""),
            *_scores(p.scores),
            *(p.source, p.val_accuracy, p.val_nll, p.val_precision, p.multiply_adds),
            *_timing(p),
        )
        for i, p in enumerate(record.points)
    ]
    return Table("points", "All points", columns, tuple(rows))


def _timing(point: Point) -> tuple[Cell, ...]:
    small, large = point.latency, point.throughput
    first: tuple[Cell, ...] = (None,) * 6
    if small is not None:
        first = (small.batch, small.runs, small.median_ms, small.p90_ms, small.p99_ms, small.mean_ms)
    second: tuple[Cell, ...] = (None,) * 4
    if large is not None:
        second = (large.batch, large.median_ms, large.p99_ms, large.images_per_second)
    return (*first, *second)


def _members(record: Record) -> Table:
    views = record.agreement.views if record.agreement else "none"
    columns = ("member", "architecture", *_SCORES, "parameters", "multiply-adds (G)", "teacher", "note")
    rows = [
        (m.name, m.architecture, *_scores(m.scores), m.parameters, m.multiply_adds, m.teacher, m.note)
        for m in record.members
    ]
    return Table("members", f"Members alone, views: {views}", columns, tuple(rows))


def _latency(record: Record) -> Table:
    some = shown_curves(record)
    rows: list[tuple[Cell, ...]] = [
        (percent, *(timing.quantiles[percent] for i in some if (timing := record.points[i].latency)))
        for percent in (range(101) if some else ())
    ]
    columns = ("batches (%)", *(f"{record.points[i].label} (ms)" for i in some))
    return Table("latency", "Latency below which so many batches stay", columns, tuple(rows))


def _reliability(record: Record) -> Table:
    columns = ("confidence above", "up to", "images", "mean confidence", "accuracy")
    rows = [(b.low, b.high, b.images, b.confidence, b.accuracy) for b in record.closeup.reliability]
    return Table("reliability", "Accuracy by confidence", columns, tuple(rows))


def _confusion(record: Record) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *row) for name, row in zip(record.classes, record.closeup.confusion, strict=True)
    ]
    return Table("confusion", "Images by label (row) and prediction (column)", ("label", *record.classes), tuple(rows))


def _classes(record: Record) -> Table:
    columns = ("class", "images", "recall", "precision", "F1", "most often taken for", "so many times")
    rows = [
        (c.name, c.images, c.recall, c.precision, c.f1, c.taken_for, c.taken_for_images) for c in record.closeup.classes
    ]
    return Table("classes", "Each class", columns, tuple(rows))


def _agreement(record: Record) -> Table:
    found = record.agreement
    columns = ("member", "other member", "same class", "correlation of mistakes")
    if found is None:
        return Table("agreement", "Agreement", columns, ())
    rows: list[tuple[Cell, ...]] = [
        (a, b, found.same[i][j], found.error_correlation[i][j])
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names)
        if i < j
    ]
    return Table("agreement", f"Agreement of pairs, views: {found.views}", columns, tuple(rows))


def _diversity(record: Record) -> Table:
    found, columns = record.closeup.diversity, ("measure", "value", "what it is")
    if found is None:
        return Table("diversity", "Diversity", columns, ())
    who, most = record.points[record.closeup.point].name, math.log(len(found.names))
    rows: tuple[tuple[Cell, ...], ...] = (
        ("disagreement", found.disagreement, "share of the images to which two give different classes"),
        ("double fault", found.double_fault, "share of the images that both get wrong"),
        ("correlation of mistakes", found.error_correlation, "0 of members that err independently, 1 of equal ones"),
        ("Q statistic", found.q_statistic, "of being right: 0 of members that err independently, at most 1"),
        ("mutual information, two", found.pairwise_information, "uncertainty as two differ, in nats: at most 0.69"),
        ("mutual information, all", found.mutual_information, f"likewise as all differ: at most {most:.2f}"),
    )
    title = (
        f"Diversity of the {len(found.names)} members of {who}, views: {found.views}; means over pairs, but the last"
    )
    return Table("diversity", title, columns, rows)


def _mistakes(record: Record) -> Table:
    columns = ("image", "label", "prediction", "confidence", "probability of the label")
    rows = [(m.image, m.label, m.prediction, m.confidence, m.label_probability) for m in record.closeup.mistakes]
    return Table("mistakes", "The most confident mistakes", columns, tuple(rows))
