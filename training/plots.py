"""Pictures of a run: loss and accuracy, and the learning rate, against the epoch."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoo.files import atomic_write

__all__ = ["COLOURS", "curves", "new_figure", "save", "schedule", "style"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito's, which colour-blind readers tell apart (Color Universal Design, 2008), strongest first."""

_GREY = "#5A5A5A"
_APART = 20.0
"""Learning rates whose peaks differ by more than this factor get a panel each."""
_DOTS = 30
"""Up to so many epochs, each gets a dot."""

_SPLITS = {"train": "training", "val": "validation"}


def curves(rows: Sequence[Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draw a run's loss and accuracy against the epoch.

    Args:
        rows: one for each epoch, with `epoch` (from 1), and any of `*_loss` (nats) and `*_accuracy` (fractions); what
            is missing or NaN in a row leaves a gap.
        path: the PNG to write, whole or not at all.
        title: of the picture.
    """
    figure = new_figure(9.6, 3.9, title)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, ending, scale, name in ((left, "_loss", 1.0, "loss (nats)"), (right, "_accuracy", 100.0, "accuracy (%)")):
        style(axes, "epoch", name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10], min_n_ticks=1))
        keys = [key for key in (rows[0] if rows else ()) if key.endswith(ending)]
        for key, colour in zip(keys, COLOURS, strict=False):
            values = [scale * row.get(key, math.nan) for row in rows]
            last = f"{values[-1]:.2f}" + (" %" if scale > 1 else "")
            dots = "o" if len(rows) <= _DOTS else ""
            axes.plot(epochs, values, color=colour, label=f"{_said(key, ending)}  {last}", marker=dots, markersize=3)
        if keys:
            axes.legend(frameon=False, loc="upper right" if scale == 1 else "lower right")
    save(figure, path)


def schedule(points: Mapping[str, Sequence[float]], path: Path, *, epochs: float, title: str = "") -> None:
    """Draw the learning rate of each parameter group against the epoch.

    Args:
        points: group -> its learning rate at equal distances from the start of the run to its end. Groups with the same
            values share a line; a panel each if their peaks are far apart.
        path: the PNG to write, whole or not at all.
        epochs: length of the run.
        title: of the picture.
    """
    lines: dict[tuple[float, ...], list[str]] = {}
    for name, values in points.items():
        lines.setdefault(tuple(values), []).append(name)
    peaks = [max(values, default=0.0) for values in lines]
    apart = bool(peaks) and max(peaks) > _APART * min(peaks)
    panels = len(lines) if apart else 1
    figure = new_figure(7.2, 1.4 + (1.5 * panels if apart else 2.5), title)
    each = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for i, (values, names) in enumerate(lines.items()):
        axes, colour = each[i if apart else 0], COLOURS[i % len(COLOURS)]
        axes.plot(np.linspace(0, epochs, len(values)), values, color=colour, label=", ".join(names))
    for axes in each:
        style(axes, "epoch" if axes is each[-1] else "", "learning rate")
        axes.set_xlim(0, epochs)
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a line along zero is seen
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4 if apart else 7))
        if points:
            axes.legend(
                frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), borderaxespad=0, ncols=2, fontsize=8
            )
    save(figure, path)


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure of a size in inches that is drawn without a screen."""
    figure = Figure((width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def style(axes: Axes, x: str, y: str) -> None:
    """Name both axes, and leave of frame and grid what helps to read them."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_GREY, labelsize=9)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; equal pictures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    atomic_write(path, buffer.getvalue())


def _said(key: str, ending: str) -> str:
    """Return what a column is called in a legend: `val_accuracy` -> `validation`."""
    return " ".join(_SPLITS.get(word, word) for word in key.removesuffix(ending).split("_"))
