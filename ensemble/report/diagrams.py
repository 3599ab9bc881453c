"""The smaller plots of a report: calibration, confusion, agreement, and how long single batches take."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from ensemble.report.ink import INK, SERIES, axes_style, logarithmic, new_figure, plain
from ensemble.report.record import Record
from ensemble.report.scatter import Drawing
from ensemble.report.tables import shown_curves

__all__ = ["agreement", "confusion", "latencies", "reliability"]

_FEW = 20
"""Up to so many rows, each cell of a matrix has its number in it; of more, a picture has to do."""
_BLUE, _ORANGE = SERIES[0], SERIES[1]


def reliability(record: Record) -> Drawing:
    """Draw accuracy against confidence in bins, over how many images are in each."""
    bins = [b for b in record.closeup.reliability if b.images]
    figure = new_figure(4.4, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes_style(upper, "", "accuracy (%)")
    axes_style(lower, "confidence (%)", "images (%)")
    upper.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    tips = {}
    for i, b in enumerate(bins):
        if b.accuracy is None or b.confidence is None:
            continue
        left, width = 100 * b.low, 100 * (b.high - b.low)
        share = b.images / record.images
        upper.bar(left, 100 * b.accuracy, width, align="edge", color=_BLUE, alpha=0.3, edgecolor=_BLUE, gid=f"bin{i}")
        upper.plot([100 * b.confidence], [100 * b.accuracy], "o", color=_BLUE, markersize=4)
        lower.bar(left, 100 * share, width, align="edge", color=_BLUE, alpha=0.6, edgecolor=_BLUE)
        said = f"{100 * b.low:.0f} to {100 * b.high:.0f} % sure: {b.images:,} images"
        tips[f"bin{i}"] = f"{said}, sure to {100 * b.confidence:.1f} %, right {100 * b.accuracy:.1f} %"
        upper.patches[-1].set_gid(f"bin{i}")
    upper.set_xlim(0, 100)
    upper.set_ylim(0, 100)
    upper.legend(frameon=False, fontsize=8, loc="upper left", labelcolor=INK)
    point = record.points[record.closeup.point]
    alt = (
        f"Reliability diagram of {point.label}: accuracy in {len(bins)} bins of confidence against the diagonal; "
        f"expected calibration error {point.scores.ece:.4f}."
    )
    return Drawing(figure, alt, tips)


def confusion(record: Record) -> Drawing:
    """Draw the confusion matrix: mistakes in orange, what is right in blue; with few classes, each number."""
    counts = np.array(record.closeup.confusion, np.int64)
    names = [plain(name, 12) for name in record.classes]
    right = np.eye(len(counts), dtype=bool)
    wrong = np.where(right, 0, counts)
    strength = np.sqrt(wrong / max(1, wrong.max()))  # the few common mistakes do not take all the contrast
    strength = np.where(right, 0.25 * counts / np.maximum(counts.sum(1), 1), 0.6 * strength)
    few = len(names) <= _FEW
    side = max(3.6, 0.36 * len(names) + 0.8) if few else 5.0
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    axes_style(axes, "prediction", "label")
    tips = {}
    if few:
        tips = _cells(
            axes,
            strength,
            np.where(right, _BLUE, _ORANGE),
            [[f"{n:,}" if n else "" for n in row] for row in counts.tolist()],
            [[f"{a} taken for {b}: {counts[i, j]:,}" for j, b in enumerate(names)] for i, a in enumerate(names)],
            size=7,
        )
        _name_cells(axes, names)
    else:
        _shades(axes, strength, right)
        axes.set_xlabel("number of the class predicted")
        axes.set_ylabel("number of the class")
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:3]
    most = "; ".join(
        f"{names[i]} taken for {names[j]} {wrong[i, j]:,} times"
        for i, j in zip(*np.unravel_index(pairs, wrong.shape), strict=True)
        if wrong[i, j]
    )
    alt = f"Confusion matrix of {len(names)} classes, {wrong.sum():,} mistakes of {counts.sum():,}"
    return Drawing(figure, f"{alt}. Most often: {most}." if most else f"{alt}.", tips)


def agreement(record: Record) -> Drawing | None:
    """Draw on which share of the images each pair of members gives the same class; None of a single member."""
    found = record.agreement
    if found is None:
        return None
    same = np.array(found.same)
    m = len(same)
    others = same[~np.eye(m, dtype=bool)]
    low, high = others.min(), others.max()
    strength = np.clip((same - low) / max(high - low, 1e-9), 0, 1) * 0.55 + 0.05
    np.fill_diagonal(strength, 0)
    few = m <= _FEW
    side = max(3.6, 0.36 * m + 1.3) if few else 5.0
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    axes_style(axes, "", "")
    names = [plain(name, 16) for name in found.names]
    tips = {}
    if few:
        said = [
            [f"{a} and {b}: same class on {100 * same[i, j]:.2f} %" for j, b in enumerate(found.names)]
            for i, a in enumerate(found.names)
        ]
        cells = [[f"{100 * v:.1f}" if i != j else "" for j, v in enumerate(row)] for i, row in enumerate(same.tolist())]
        tips = _cells(axes, strength, np.full(same.shape, _BLUE), cells, said, size=8)
        _name_cells(axes, names)
    else:
        _shades(axes, strength, np.ones(same.shape, bool))
    alt = (
        f"Agreement of {m} members in pairs: the same class on {100 * low:.1f} to {100 * high:.1f} % of the images, "
        f"{100 * others.mean():.1f} % on average."
    )
    return Drawing(figure, alt, tips)


def latencies(record: Record, *, narrow: bool = False) -> Drawing | None:
    """Draw the share of batches that are done within so many milliseconds; None if nothing was measured.

    Args:
        record: with timed points.
        narrow: for the screen of a phone.
    """
    some = shown_curves(record)
    if not some:
        return None
    figure = new_figure(3.6, 4.2) if narrow else new_figure(9.0, 3.6)
    axes = figure.add_subplot()
    batch = next(t.batch for i in some if (t := record.points[i].latency) is not None)
    axes_style(axes, f"latency, batch of {batch} (ms)", "batches done (%)")
    dashes = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)))
    for place, i in enumerate(some):
        timing = record.points[i].latency
        if timing is not None:
            axes.plot(
                timing.quantiles,
                range(101),
                color=SERIES[place % len(SERIES)],
                linestyle=dashes[place % len(dashes)],
                linewidth=1.6,
                label=plain(record.points[i].label, 42 if narrow else 80),
            )
    logarithmic(axes, [ms for i in some if (t := record.points[i].latency) for ms in (t.quantiles[0], t.quantiles[-1])])
    axes.set_ylim(0, 100)
    legend = figure.legend(loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    alt = f"Latency distributions of {len(some)} points, as the share of batches done within so many milliseconds."
    return Drawing(figure, alt, {})


def _cells(
    axes: Axes,
    strength: npt.NDArray[np.float64],
    colours: npt.NDArray[np.str_],
    texts: list[list[str]],
    said: list[list[str]],
    *,
    size: float,
) -> dict[str, str]:
    """Draw a matrix as rectangles of one colour each, more or less of it; return the tips."""
    tips = {}
    rows, columns = strength.shape
    for i in range(rows):
        for j in range(columns):
            gid = f"cell{i}-{j}"
            cell = Rectangle(
                (j - 0.5, i - 0.5), 1, 1, facecolor=str(colours[i, j]), alpha=float(strength[i, j]), gid=gid
            )
            axes.add_patch(cell)
            tips[gid] = said[i][j]
            if texts[i][j]:
                axes.text(j, i, texts[i][j], ha="center", va="center", fontsize=size, color=INK)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    return tips


def _shades(axes: Axes, strength: npt.NDArray[np.float64], blue: npt.NDArray[np.bool_]) -> None:
    """Draw a large matrix as one picture, more or less opaque."""
    pixels = np.where(blue[..., None], to_rgb(_BLUE), to_rgb(_ORANGE))
    axes.imshow(np.dstack((pixels, strength)), interpolation="nearest")
    axes.grid(visible=False)


def _name_cells(axes: Axes, names: list[str]) -> None:
    at = range(len(names))
    axes.set_xticks(at, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(at, names, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
