"""What is on a matplotlib figure that is about to be saved."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image


def keep_figures(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Figure]:
    """Return a list that each figure which `module` saves is added to; it is saved all the same."""
    kept: list[Figure] = []
    save = module.save

    def keep(figure: Figure, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(module, "save", keep)
    return kept


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a picture in pixels, read to its last one."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size
