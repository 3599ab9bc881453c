"""Pictures of a sweep: accuracy over two settings as a heat map, over one as a line."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from training.plots import COLOURS, new_figure, save, style
from training.statistics import Spread, spread

__all__ = ["Axis", "heatmap", "line", "ridge", "ridge_name"]

_Floats = npt.NDArray[np.float64]

_SAID = {
    "lr": "learning rate",
    "batch_size": "batch size N (images)",
    "momentum": r"momentum $\rho$",
    "weight_decay": "weight decay",
    "epochs": "epochs",
}

_LOGS: dict[str, Callable[[_Floats], _Floats]] = {
    "lr": np.log,
    "batch_size": lambda images: -np.log(images),
    "momentum": lambda rho: -np.log1p(-rho),
    "weight_decay": np.log,
}
"""Settings -> the logarithm of the factor by which they enter what a ridge keeps constant."""

_RIDGES = {
    frozenset({"lr", "batch_size"}): "lr / N",  # arXiv:1711.00489: the scale of SGD's noise
    frozenset({"lr", "momentum"}): "lr / (1 - rho)",  # the same: how far a gradient moves the weights in the end
    frozenset({"lr", "weight_decay"}): "lr * wd",  # arXiv:1706.05350: the effective step of normalised weights
}

_EVEN = 0.02
"""Values whose logarithms lie apart evenly up to this share get a logarithmic axis."""
_PALETTE = LinearSegmentedColormap.from_list("pale", colormaps["YlGnBu"](np.linspace(0.0, 0.6, 256)))
"""From pale to saturated, the best darkest, and pale enough all through for black figures and lines."""


@dataclass(frozen=True)
class Axis:
    """A setting and the values it took, as they were written.

    Attributes:
        key: dotted key in the recipe, e.g. `optimizer.lr`.
        values: numbers or words; at least one.
    """

    key: str
    values: tuple[str, ...]

    @property
    def short(self) -> str:
        """The key's last word."""
        return self.key.rpartition(".")[2]

    @property
    def label(self) -> str:
        """What the axis is called in a picture."""
        return f"{_SAID[self.short]}   ({self.key})" if self.short in _SAID else self.key

    @cached_property
    def numbers(self) -> _Floats | None:
        """The values as numbers `[n]`, if all of them are."""
        try:
            found = np.array([float(value) for value in self.values])
        except ValueError:
            return None
        return found if np.isfinite(found).all() else None

    @cached_property
    def ordered(self) -> tuple[str, ...]:
        """The values as a picture has them: numbers rising, words as they were given."""
        return self.values if self.numbers is None else tuple(sorted(self.values, key=float))

    @property
    def by_ratio(self) -> bool:
        """Whether the values are spaced by a common factor, three of them or more."""
        if self.numbers is None or len(self.values) < 3 or self.numbers.min() <= 0:  # noqa: PLR2004
            return False
        steps = np.diff(np.log(np.sort(self.numbers)))
        return bool(np.ptp(steps) <= _EVEN * steps.mean())


def ridge_name(x: Axis, y: Axis) -> str | None:
    """Return what stays constant along the ridges of two settings, e.g. `lr / N`; None if nothing is expected to."""
    name = _RIDGES.get(frozenset({x.short, y.short}))
    return name if name and all(_cell_logs(axis) is not None for axis in (x, y)) else None


def ridge(x: Axis, y: Axis, through: tuple[float, float], points: int = 200) -> _Floats:
    """Return a line along which `ridge_name(x, y)` is constant.

    Cells have side 1 and their centres at whole numbers, in the order of `Axis.ordered`. Within a cell, a setting runs
    evenly in its logarithm (momentum: in that of 1 - rho).

    Args:
        x: a setting that `ridge_name` knows with the other one.
        y: likewise.
        through: (column, row) of a place on the line.
        points: at most so many.

    Returns:
        (column, row) of points `[P, 2]`, those on the map; P is at most `points`.
    """
    across, down = _cell_logs(x), _cell_logs(y)
    if across is None or down is None:
        return np.empty((0, 2))
    columns = np.linspace(across[0][0], across[0][-1], points)
    total = np.interp(through[0], *across) + np.interp(through[1], *down)
    wanted = total - np.interp(columns, *across)
    places, logs = down
    rising = np.argsort(logs)
    rows = np.interp(wanted, logs[rising], places[rising], left=math.nan, right=math.nan)
    found = np.stack((columns, rows), axis=1)
    return found[np.isfinite(rows)]


def _cell_logs(axis: Axis) -> tuple[_Floats, _Floats] | None:
    """Return places on the map (first edge, centres of the cells, last edge) and the logarithms there."""
    if axis.short not in _LOGS or axis.numbers is None or len(axis.values) < 2:  # noqa: PLR2004
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = _LOGS[axis.short](np.sort(axis.numbers))
    if not np.isfinite(logs).all():  # a weight decay of 0
        return None
    first, last = logs[0] - (logs[1] - logs[0]) / 2, logs[-1] + (logs[-1] - logs[-2]) / 2
    n = len(logs)
    return np.array([-0.5, *range(n), n - 0.5]), np.array([first, *logs, last])


def heatmap(x: Axis, y: Axis, cells: Mapping[tuple[str, str], Spread], path: Path, title: str = "") -> None:
    """Draw accuracy over two settings, with the ridges that go with them.

    Each cell says mean and standard deviation in percent; the best is framed. Colours begin below the median by twice
    its distance to the best, so that one diverged run does not take all the contrast.

    Args:
        x: the setting from left to right.
        y: the setting from bottom to top.
        cells: (value of x, value of y) -> accuracy (fraction); a cell may be missing.
        path: the PNG to write, whole or not at all.
        title: of the picture.
    """
    wide, high = len(x.values), len(y.values)
    figure = new_figure(min(2.8 + 0.95 * wide, 16), min(max(2.0 + 0.66 * high, 3.7), 12), title)
    axes = figure.add_subplot()
    found = [(i, j, cells[a, b]) for i, a in enumerate(x.ordered) for j, b in enumerate(y.ordered) if (a, b) in cells]
    grid = np.full((high, wide), math.nan)
    for i, j, cell in found:
        grid[j, i] = 100 * cell.mean
    norm, clipped = _colours(grid)
    axes.set_facecolor("#E8E8E8")
    picture = axes.imshow(grid, origin="lower", cmap=_PALETTE, norm=norm, aspect="auto", interpolation="nearest")
    for i, j, cell in found:
        under = "" if cell.std is None else f"\n±{100 * cell.std:.2f}"
        halo = [withStroke(linewidth=4, foreground=_PALETTE(norm(grid[j, i])))]  # keeps ridges off the figures
        axes.text(i, j, f"{100 * cell.mean:.2f}{under}", **_FIGURES, path_effects=halo)
    missing = {(i, j) for i in range(wide) for j in range(high)} - {(i, j) for i, j, _ in found}
    for i, j in missing:
        axes.text(i, j, "none", **_FIGURES, color="#777777")
    if found:
        best = max(found, key=lambda item: item[2].mean)
        axes.add_patch(
            Rectangle((best[0] - 0.5, best[1] - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.4, zorder=3)
        )
        _draw_ridges(axes, x, y, (best[0], best[1]))
    style(axes, x.label, y.label.replace("   ", "\n"))
    axes.grid(visible=False)
    axes.set_xticks(range(wide), x.ordered)
    axes.set_yticks(range(high), y.ordered)
    axes.set_xlim(-0.5, wide - 0.5)
    axes.set_ylim(-0.5, high - 0.5)
    bar = figure.colorbar(picture, ax=axes, extend="min" if clipped else "neither", pad=0.02)
    bar.set_label("validation accuracy (%)")
    bar.outline.set_visible(False)
    save(figure, path)


_FIGURES: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5, "linespacing": 1.25, "zorder": 4}


def _colours(grid: _Floats) -> tuple[Normalize, bool]:
    """Return the range of the colours, and whether some cells lie below it."""
    known = grid[np.isfinite(grid)]
    if not known.size:
        return Normalize(0, 100), False
    best, lowest = known.max(), known.min()
    bottom = max(lowest, best - 3 * max(best - np.median(known), 0.05))
    return Normalize(bottom if bottom < best else best - 0.1, best), bool(lowest < bottom)


def _draw_ridges(axes: Axes, x: Axis, y: Axis, best: tuple[int, int]) -> None:
    """Draw the ridge through the best cell, and those through its neighbours in the same row."""
    name = ridge_name(x, y)
    if name is None:
        return
    shown = name.replace("rho", r"$\rho$").replace("*", r"$\cdot$")
    for column in range(len(x.values)):
        points = ridge(x, y, (column, best[1]))
        if column == best[0]:
            axes.plot(
                *points.T, color="#222222", linewidth=1.8, label=f"{shown} constant, through the best (others dashed)"
            )
        else:
            axes.plot(*points.T, color="#222222", linewidth=0.8, linestyle=(0, (5, 4)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, frameon=False, fontsize=8.5)


def line(x: Axis, values: Mapping[str, Sequence[float]], path: Path, title: str = "") -> None:
    """Draw accuracy over one setting: a dot for each seed, a line through the means, bars of one standard deviation.

    Args:
        x: the setting; a logarithmic axis if its values are spaced by a factor.
        values: value of the setting -> accuracies (fractions), one for each seed; may be missing or empty.
        path: the PNG to write, whole or not at all.
        title: of the picture.
    """
    figure = new_figure(6.4, 4.0, title)
    axes = figure.add_subplot()
    style(axes, x.label, "validation accuracy (%)")
    known = [(i, v, values[v]) for i, v in enumerate(x.ordered) if values.get(v)]
    at = [float(v) if x.numbers is not None else float(i) for i, v, _ in known]
    sums = [spread(found) for _, _, found in known]
    means, bars = [100 * s.mean for s in sums], [100 * (s.std or 0.0) for s in sums]
    dots = [(place, 100 * v) for place, (_, _, found) in zip(at, known, strict=True) for v in found]
    many = any(s.n > 1 for s in sums)
    if many:
        axes.plot(*zip(*dots, strict=True), "o", color=COLOURS[5], markersize=4, label="one seed")
    axes.errorbar(
        at,
        means,
        yerr=bars if many else None,
        color=COLOURS[0],
        marker="o",
        capsize=3,
        label="mean ± standard deviation" if many else None,
    )
    if many:
        axes.legend(frameon=False, fontsize=9)
    if x.by_ratio:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    places = [float(v) for v in x.ordered] if x.numbers is not None else [float(i) for i in range(len(x.ordered))]
    axes.set_xticks(places, x.ordered)
    save(figure, path)
