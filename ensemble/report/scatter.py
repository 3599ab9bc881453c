"""The plot that a report is about: accuracy against latency, with the front and the chosen point."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ensemble.report.front import MILLISECONDS, cost
from ensemble.report.ink import INK, PAPER, SERIES, axes_style, logarithmic, new_figure
from ensemble.report.record import Kind, Point, Record, Timing
from ensemble.report.tables import axis_unit

__all__ = ["MARKERS", "Drawing", "pareto", "tip"]

MARKERS: dict[Kind, tuple[str, str]] = {
    "member": ("o", "one network"),
    "student": ("*", "student"),
    "committee": ("s", "best k of the pool"),
    "ensemble": ("D", "ensemble file"),
    "cascade": ("^", "cascade"),
}
"""Kind of point -> its marker, and what the legend calls it."""

_MANY = 300
"""Of more points, those off the front are one picture, so that a page stays small."""
_ON_TOP = 4.0


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with what is said of it.

    Attributes:
        figure: drawn.
        alt: what it shows, for those who cannot see it.
        tips: an artist's gid -> what is shown when a pointer is over it.
    """

    figure: Figure
    alt: str
    tips: dict[str, str]


def tip(point: Point, unit: str = MILLISECONDS) -> str:
    """Return what a pointer over a point is told."""
    low, high = point.scores.accuracy_ci95
    said = [
        point.label,
        f"{100 * point.scores.accuracy:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})",
    ]
    if unit == MILLISECONDS and point.latency is not None:
        said.append(f"median {point.latency.median_ms:.3g} ms, p99 {point.latency.p99_ms:.3g} ms")
    if point.multiply_adds is not None:
        said.append(f"{point.multiply_adds:.3g} G multiply-adds")
    if point.teacher is not None:
        said.append(f"student of {point.teacher}")
    return "\n".join(said)


def pareto(record: Record, *, narrow: bool = False) -> Drawing:
    """Draw all points that have a cost: bars are 95 % intervals, numbers those of the table of the front.

    From a point on the front, a thin line goes to the 99th percentile of its latency: in a cascade, it is far.

    Args:
        record: with `front` set.
        narrow: for the screen of a phone.
    """
    unit = axis_unit(record)
    figure = new_figure(3.6, 4.6) if narrow else new_figure(9.0, 4.9)
    axes = figure.add_subplot()
    batch = next((p.latency.batch for p in record.points if p.latency is not None), 1)
    x = f"median latency, batch of {batch} (ms)" if unit == MILLISECONDS else "multiply-adds for an image (G)"
    axes_style(axes, x, f"{record.split} accuracy (%)")
    placed = [(i, p, price) for i, p in enumerate(record.points) if (price := cost(p, unit)) is not None]
    styles = list(dict.fromkeys((p.runtime, p.precision) for _, p, _ in placed))
    colours = {key: SERIES[i % len(SERIES)] for i, key in enumerate(sorted(styles))}
    on = [(price, 100 * p.scores.accuracy) for _, p, price in placed if p.front]
    if on:
        axes.plot(*zip(*on, strict=True), color=INK, linewidth=1.1, drawstyle="steps-post", zorder=_ON_TOP)
    coloured = [(i, p, price, colours[p.runtime, p.precision]) for i, p, price in placed]
    if len(placed) > _MANY:
        _draw_crowd(axes, [(p, price, colour) for _, p, price, colour in coloured if not p.front])
        coloured = [item for item in coloured if item[1].front]
    tips = {}
    for i, point, price, colour in coloured:
        _draw_point(axes, point, price, colour, gid=f"point{i}")
        if point.front and unit == MILLISECONDS and point.latency is not None:
            _draw_tail(axes, point.latency, 100 * point.scores.accuracy, colour)
        tips[f"point{i}"] = tip(point, unit)
    for number, (at, accuracy) in enumerate(on, 1):
        axes.annotate(
            str(number), (at, accuracy), (-3, 5), textcoords="offset points", ha="right", fontsize=8, color=INK
        )
    if record.chosen is not None:
        best = record.points[record.chosen]
        price = cost(best, unit)
        if price is not None:
            at, size = 100 * best.scores.accuracy, 15
            axes.plot([price], [at], "o", markersize=size, fillstyle="none", color=INK, markeredgewidth=1.4)
    if record.budget is not None and record.budget.unit == unit:
        axes.axvline(record.budget.limit, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    logarithmic(axes, [price for *_, price in placed])
    _legend(figure, record, [p for _, p, _ in placed], colours, narrow=narrow)
    return Drawing(figure, _alt(record, unit, len(placed), len(on)), tips)


def _draw_point(axes: Axes, point: Point, price: float, colour: str, *, gid: str) -> None:
    """Draw a marker with its interval; what is not on the front is pale."""
    low, high = (100 * end for end in point.scores.accuracy_ci95)
    marker, _ = MARKERS[point.kind]
    bar, face, above = (0.6, 1.0, _ON_TOP) if point.front else (0.2, 0.6, 2)
    axes.plot([price, price], [low, high], color=colour, linewidth=1.1, alpha=bar, zorder=above)
    axes.plot(
        [price],
        [100 * point.scores.accuracy],
        marker,
        markersize=9 if marker == "*" else 6,
        color=colour,
        alpha=face,
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
        zorder=above + 1,
        gid=gid,
    )


def _draw_tail(axes: Axes, latency: Timing, accuracy: float, colour: str) -> None:
    """Draw how far it is from the median to the 99th percentile."""
    ends = [latency.median_ms, latency.p99_ms]
    # Above the front, which leaves a point at the same height.
    axes.plot(ends, [accuracy] * 2, color=colour, linewidth=2.2, linestyle=(0, (1, 1.5)), zorder=_ON_TOP + 0.5)
    axes.plot(ends[1:], [accuracy], "|", color=colour, markersize=8, markeredgewidth=1.6, zorder=_ON_TOP + 0.5)


def _draw_crowd(axes: Axes, placed: Sequence[tuple[Point, float, str]]) -> None:
    """Draw many points that are off the front, without intervals, as one picture."""
    for marker, colour in dict.fromkeys((MARKERS[p.kind][0], c) for p, _, c in placed):
        alike = [(p, price) for p, price, c in placed if (MARKERS[p.kind][0], c) == (marker, colour)]
        some = [(price, 100 * p.scores.accuracy) for p, price in alike]
        axes.plot(*zip(*some, strict=True), marker, markersize=4, color=colour, alpha=0.4, markeredgewidth=0, zorder=2)
    axes.set_rasterization_zorder(_ON_TOP)


def _legend(
    figure: Figure,
    record: Record,
    points: Sequence[Point],
    colours: dict[tuple[str, str], str],
    *,
    narrow: bool,
) -> None:
    """Say what markers and colours mean, below the plot."""
    marks = [(MARKERS[kind][0], INK, MARKERS[kind][1]) for kind in MARKERS if any(p.kind == kind for p in points)]
    marks += [("o", colour, f"{runtime} {precision}") for (runtime, precision), colour in colours.items()]
    handles = [
        Line2D([], [], marker=marker, color=colour, markersize=6, linestyle="none", markeredgecolor=PAPER, label=label)
        for marker, colour, label in marks
    ]
    if record.chosen is not None:
        handles.append(
            Line2D([], [], marker="o", color=INK, fillstyle="none", markersize=9, linestyle="none", label="chosen")
        )
    if any(p.front for p in points):
        handles.append(Line2D([], [], color=INK, linewidth=1.1, label="front"))
    if any(p.front and p.latency is not None for p in points) and axis_unit(record) == MILLISECONDS:
        handles.append(Line2D([], [], color=INK, linewidth=2.2, linestyle=(0, (1, 1.5)), label="to its p99"))
    if record.budget is not None and record.budget.unit == axis_unit(record):
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="budget"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2 if narrow else 4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def _alt(record: Record, unit: str, points: int, on: int) -> str:
    """Describe the plot in words; its table has the numbers."""
    against = "latency" if unit == MILLISECONDS else "multiply-adds"
    said = f"Accuracy against {against} of {points} points, {on} of them on the front"
    if record.chosen is not None:
        best = record.points[record.chosen]
        said += f"; chosen: {best.label}, {100 * best.scores.accuracy:.2f} %"
    return said + ". All numbers are in the table below."
