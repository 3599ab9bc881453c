"""The page: one file of HTML without scripts, that loads nothing and needs nobody's network.

Whatever is in the record is escaped by the template engine: names and notes come from other people's cards.
"""

import base64
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ensemble.report.diagrams import agreement, confusion, latencies, reliability
from ensemble.report.front import MILLISECONDS
from ensemble.report.ink import DARK, LIGHT, inline_svg
from ensemble.report.record import Point, Record
from ensemble.report.scatter import Drawing, pareto
from ensemble.report.tables import Cell, Table, axis_unit, tables, to_csv

__all__ = ["drawings", "page", "shown"]

_MANY = 20
"""Of more classes, the page shows the commonest mistakes instead of the whole matrix."""
_MOST = 50
_NOTES = 3  # at the top; where there are more, all of them are at the bottom
_FOUR_DIGITS = ("NLL", "Brier", "ECE", "adaptive ECE", "AURC", "validation NLL", "correlation", "threshold", "value")
_NBSP = "\N{NO-BREAK SPACE}"
_NOT_ON_FRONT = ("NLL", "validated")  # they are among all points: the first table is no wider than the page
_PERCENTS = (*range(0, 100, 10), 95, 99, 100)


def drawings(record: Record) -> dict[str, Drawing]:
    """Return all plots of a record by name."""
    found = {
        "pareto": pareto(record),
        "latencies": latencies(record),
        "reliability": reliability(record),
        "confusion": confusion(record),
        "agreement": agreement(record),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def page(record: Record) -> str:
    """Return a report as one page of HTML."""
    drawn = drawings(record)
    drawn["pareto_narrow"] = pareto(record, narrow=True)
    narrow = latencies(record, narrow=True)
    if narrow is not None:
        drawn["latencies_narrow"] = narrow
    plots: dict[str, Markup | None] = dict.fromkeys(("latencies", "agreement"))
    for name, d in drawn.items():
        text = inline_svg(d.figure, d.tips, d.alt, name.replace("_", "-"), scrolls=name in {"confusion", "agreement"})
        plots[name] = Markup(text)  # noqa: S704  # our own, escaped XML
    found = tables(record)
    timed = axis_unit(record) == MILLISECONDS
    many = len(record.classes) > _MANY
    package = files("ensemble.report")
    return (
        _environment()
        .from_string(package.joinpath("page.html").read_text(encoding="utf-8"))
        .render(
            record=record,
            focus=record.points[record.closeup.point],
            validated=_validated(record.points[record.closeup.point]),
            notes_on_top=_NOTES,
            against="latency" if timed else "multiply-adds",
            timed=timed,
            plots=plots,
            tables=found,
            compact=_compact(record, found),
            stages=_stages(record.points[record.closeup.point]),
            confusion_title="The commonest mistakes" if many else "The confusion matrix",
            csv={name: _data_uri(to_csv(table)) for name, table in found.items()},
            light=_variables(LIGHT),
            dark=_variables(DARK),
            style=Markup(package.joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own
        )
    )


def shown(value: Cell, column: str) -> str:
    """Return a cell as people read it: percent, three digits of a time, a dash for nothing."""
    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, int):
        return f"{value:,}"
    if column.startswith(_FOUR_DIGITS):
        return f"{value:.4f}"
    if column.startswith("multiply-adds") or column.endswith(("(ms)", "images/s")):
        return _three(value)
    return f"{100 * value:.2f} %"


def _three(value: float) -> str:
    """Return a number with three digits that count, and all that are before the point."""
    digits = max(0, 2 - (len(f"{int(abs(value))}") - 1 if abs(value) >= 1 else -1))
    return f"{value:,.{digits}f}"


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "shown": shown,
        "count": lambda n, thing: f"{n:,} {thing}{'' if n == 1 else 's'}",
        "percent": lambda value: f"{100 * value:.2f}{_NBSP}%",
        "ms": _three,
        "thousands": lambda value: f"{value:,}",
    }
    return environment


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode("ascii")


def _compact(record: Record, found: Mapping[str, Table]) -> dict[str, Table]:
    """Return tables as the page has them, where the CSV files have more columns or rows than a page has room for."""
    numbers = {i: n for n, i in enumerate((i for i, p in enumerate(record.points) if p.front), 1)}
    rows = [(numbers.get(i), *_point_row(record, i)) for i in range(len(record.points))]
    columns = (
        *("front", "point", "views", "runs as", "accuracy", "95 % interval", "median (ms)", "p99 (ms)", "images/s"),
        *("multiply-adds (G)", "NLL", "validated"),
    )
    whole = Table("points", "All points, the cheapest first", columns, tuple(rows))
    on = Table("front", "On the front", columns, tuple(row for row in rows if row[0] is not None))
    compact = {"points": whole.filled(), "front": on.without(*_NOT_ON_FRONT).filled()}
    if "latency" in found:
        whole = found["latency"]
        rows_shown = tuple(row for row in whole.rows if row[0] in _PERCENTS)
        compact["latency"] = Table(whole.name, whole.title, whole.columns, rows_shown)
    if "members" in found:
        compact["members"] = found["members"].without("Brier", "adaptive ECE", "AURC").filled()
    if len(record.classes) > _MANY:
        pairs = [
            (label, other, n)
            for label, row in zip(record.classes, record.closeup.confusion, strict=True)
            for other, n in zip(record.classes, row, strict=True)
            if n and other is not label
        ]
        pairs.sort(key=lambda pair: -pair[2])
        title = "Images of one class taken for another"
        compact["confusion"] = Table("confusion", title, ("label", "prediction", "images"), tuple(pairs[:_MOST]))
    return compact


def _point_row(record: Record, i: int) -> tuple[Cell, ...]:
    p = record.points[i]
    marks: list[str] = [p.kind] if p.kind in {"student", "cascade"} else []
    marks += [f"of {p.teacher}"] if p.teacher else []
    marks += ["the choice"] if i == record.chosen else []
    low, high = (f"{100 * end:.2f}" for end in p.scores.accuracy_ci95)
    return (
        p.name + (f" ({', '.join(marks)})" if marks else ""),
        p.views,
        f"{p.runtime}, {p.precision}",
        p.scores.accuracy,
        f"{low} to {high}".replace(" ", _NBSP),
        p.latency.median_ms if p.latency else None,
        p.latency.p99_ms if p.latency else None,
        p.throughput.images_per_second if p.throughput else None,
        p.multiply_adds,
        p.scores.nll,
        _validated(p),
    )


def _validated(point: Point) -> str | None:
    """Return the validation accuracy, and the precision that it is of where that is another than the point's."""
    if point.val_accuracy is None:
        return None
    of = "" if point.val_precision == point.precision else f" in {point.val_precision}"
    return f"{100 * point.val_accuracy:.2f} %{of}".replace(" ", _NBSP)


def _stages(point: Point) -> Table:
    columns = ("stage", "answers", "threshold", "views", "members")
    rows, before = [], set[str]()
    for number, stage in enumerate(point.stages, 1):
        joined = [name for name in stage.members if name not in before]
        said = ("and " if before else "") + ", ".join(joined) if joined else "the same"
        rows.append((number, stage.share, stage.threshold or None, stage.views, said))
        before |= {*stage.members}
    return Table("stages", "Stages of the cascade", columns, tuple(rows))
