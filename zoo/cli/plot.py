"""The picture of an entry: its training curve, and which classes its network takes for which others."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zoo.predictions import SplitPredictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Counts", "commonest", "confusion", "draw_entry"]

Counts = npt.NDArray[np.int64]

_FEW = 20
"""Up to so many classes, each cell of the matrix has its number in it."""
_MOST_NAMES = 200
"""Of more classes, not each has its name beside the matrix."""
_BARS = 10
_DOTS = 30
"""Up to so many epochs, each gets a dot."""
_LONGEST = 24
_SPLITS = {"train": "training", "val": "validation"}
_KINDS = (("_loss", 1.0, "loss (nats)"), ("_accuracy", 100.0, "accuracy (%)"))


def confusion(stored: SplitPredictions) -> Counts:
    """Return how many images of each class were taken for each class, `[C, C]`: row the true class, column the found.

    The views are merged as `ensemble eval --tta flip` does: by the mean of their probabilities.
    """
    from scipy.special import softmax

    probs = np.mean([softmax(logits.astype(np.float32), axis=1) for logits in stored.views.values()], axis=0)
    classes = probs.shape[1]
    pairs = stored.labels * classes + probs.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def commonest(counts: Counts, most: int) -> list[tuple[int, int, int]]:
    """Return (true class, class found, images) of the commonest mistakes, the commonest first; ties by class."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(i) // len(counts), int(i) % len(counts)) for i in order]
    return [(i, j, int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def draw_entry(
    path: Path, title: str, counts: Counts, classes: Sequence[str], rows: Sequence[Mapping[str, float]] = ()
) -> None:
    """Draw the training curve, where there is one, the commonest mistakes and the confusion matrix.

    Args:
        path: the PNG to write, whole or not at all.
        title: what was drawn; the accuracy is added.
        counts: see `confusion`, `[C, C]`.
        classes: the C names.
        rows: of the training curve, one for each epoch; see `zoo.metrics`.
    """
    from training.plots import new_figure, save

    names = [_name(text) for text in classes]
    side = min(max((0.56 if len(names) <= _FEW else 0.125) * len(names), 4.5), 25.0)
    accuracy = 100 * np.trace(counts) / max(counts.sum(), 1)
    said = f"{_plain(title)}, {accuracy:.2f} % of {counts.sum():,} test images with flip"
    figure = new_figure(7.6 + side, side + 1.6, said)
    kinds = [kind for kind in _KINDS if any(key.endswith(kind[0]) for key in (rows[0] if rows else ()))]
    grid = figure.add_gridspec(len(kinds) + 1, 2, width_ratios=[6.0, side + 1.6])
    for place, kind in enumerate(kinds):
        _draw_curve(figure.add_subplot(grid[place, 0]), rows, *kind)
    _draw_mistakes(figure.add_subplot(grid[len(kinds), 0]), counts, names)
    _draw_matrix(figure.add_subplot(grid[:, 1]), counts, names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box takes its place
        save(figure, path)


def _draw_curve(axes: "Axes", rows: Sequence[Mapping[str, float]], ending: str, scale: float, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    from training.plots import COLOURS, style

    style(axes, "epoch", label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10], min_n_ticks=1))
    for key, colour in zip((key for key in rows[0] if key.endswith(ending)), COLOURS, strict=False):
        values = [scale * row[key] for row in rows]
        split = key.removesuffix(ending)
        said = f"{_SPLITS.get(split, _name(split))}  {values[-1]:.2f}"
        dots = "o" if len(rows) <= _DOTS else ""
        axes.plot([row["epoch"] for row in rows], values, color=colour, label=said, marker=dots, markersize=3)
    axes.legend(frameon=False, loc="upper right" if scale == 1 else "lower right", fontsize=9)


def _draw_mistakes(axes: "Axes", counts: Counts, names: Sequence[str]) -> None:
    from training.plots import COLOURS, style

    found = commonest(counts, _BARS)
    style(axes, "images", "")
    axes.set_title("commonest mistakes" if found else "no mistakes", fontsize=10, loc="left")
    bars = axes.barh([f"{names[i]} taken for {names[j]}" for i, j, _ in found], [n for *_, n in found])
    for bar in bars:
        bar.set(color=COLOURS[1], height=0.6)
    axes.bar_label(bars, padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xticks([])
    if not found:
        axes.set_yticks([])


def _draw_matrix(axes: "Axes", counts: Counts, names: Sequence[str]) -> None:
    """Draw mistakes in shades of orange, what is right in grey; with few classes, each number."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    from training.plots import style

    few = len(names) <= _FEW
    diagonal = np.eye(len(names), dtype=bool)
    most = max(int(counts[~diagonal].max(initial=0)), 1)
    wrong = np.ma.masked_array(counts, diagonal | (counts == 0))
    norm = PowerNorm(0.5, 0, most)  # the few common mistakes do not take all the contrast
    picture = axes.imshow(wrong, cmap=colormaps["Oranges"], norm=norm, interpolation="nearest")
    axes.imshow(np.ma.masked_array(np.ones(counts.shape), ~diagonal), cmap="Greys", vmin=0, vmax=5)
    style(axes, "class found", "true class")
    axes.grid(visible=False)
    axes.set_anchor("N")
    shown = range(0, len(names), -(-len(names) // _MOST_NAMES))
    axes.set_yticks(shown, [names[i] for i in shown])
    if few:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        for i, j in np.argwhere(counts):
            dark = i != j and counts[i, j] > most / 2
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=9, color="w" if dark else "k")
        return
    axes.set_xticks(shown, [names[i] for i in shown], rotation=90)
    axes.tick_params(labelsize=5.5, length=2)
    axes.tick_params(right=True, top=True, labelright=True, labeltop=True)
    bar = axes.figure.colorbar(picture, ax=axes, pad=0.01, shrink=0.4, ticks=MaxNLocator(integer=True), anchor=(0, 1))
    bar.set_label("mistakes (images)")
    bar.outline.set_visible(False)


def _name(text: str) -> str:
    """Return a class's name as a picture has it: in one line, and short."""
    return _plain(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _plain(text: str) -> str:
    """Return text in one line, without what matplotlib takes for formulas."""
    return " ".join(text.split()).replace("$", r"\$")
