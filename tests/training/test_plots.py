"""Pictures of a run: what is on them, read off the figure, and files that are whole and repeatable."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.training.figures import keep_figures, size_of, xs, ys
from training import plots
from training.plots import COLOURS, curves, schedule
from zoo.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.3, "val_accuracy": 0.4, "seconds": 3.0},
    {"epoch": 2, "train_loss": 1.5, "train_accuracy": 0.5, "val_accuracy": 0.45, "seconds": 6.0},
    {"epoch": 3, "train_loss": 1.25, "train_accuracy": 0.6, "val_accuracy": 0.5125, "seconds": 9.0},
]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> "list[Figure]":
    return keep_figures(monkeypatch, plots)


def shown(figure: "Figure", panel: int) -> dict[str, list[float]]:
    """Return what a panel's lines show, by their names in the legend."""
    return {str(line.get_label()): ys(line) for line in figure.axes[panel].lines}


def test_curves_show_loss_and_accuracy_in_percent(figures: "list[Figure]", tmp_path: Path) -> None:
    curves(ROWS, tmp_path / "curves.png", "fastnet-seed1")
    loss, accuracy = shown(figures[0], 0), shown(figures[0], 1)
    assert loss == {"training  1.25": [2.0, 1.5, 1.25]}
    assert accuracy == {
        "training  60.00 %": pytest.approx([30, 50, 60]),
        "validation  51.25 %": pytest.approx([40, 45, 51.25]),
    }
    assert [xs(line) for line in figures[0].axes[1].lines] == [[1, 2, 3]] * 2
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss (nats)", "accuracy (%)"]
    assert figures[0].get_suptitle() == "fastnet-seed1"


def test_curves_of_any_columns_with_gaps(figures: "list[Figure]", tmp_path: Path) -> None:
    rows = [{**row, "val_ema_accuracy": math.nan} for row in ROWS[:1]]
    rows += [{**row, "val_ema_accuracy": 0.7} for row in ROWS[1:]]
    del rows[1]["train_loss"]
    curves(rows, tmp_path / "curves.png")
    assert np.isnan(shown(figures[0], 0)["training  1.25"][1])
    ema = shown(figures[0], 1)["validation ema  70.00 %"]
    assert np.isnan(ema[0])
    assert ema[1:] == pytest.approx([70, 70])


def test_curves_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    curves([], tmp_path / "none.png")
    curves(ROWS[:1], tmp_path / "one.png")
    assert [size_of(tmp_path / name) for name in ("none.png", "one.png")] == [(1440, 585)] * 2


def test_groups_alike_share_a_line(figures: "list[Figure]", tmp_path: Path) -> None:
    points = {"*.weight": [0.1, 0.05, 0.0], "*.bias": [0.2, 0.1, 0.0], "head.*": [0.1, 0.05, 0.0]}
    schedule(points, tmp_path / "schedule.png", epochs=30)
    assert len(figures[0].axes) == 1
    assert shown(figures[0], 0) == {"*.weight, head.*": [0.1, 0.05, 0.0], "*.bias": [0.2, 0.1, 0.0]}
    assert xs(figures[0].axes[0].lines[0]) == [0, 15, 30]
    assert figures[0].axes[0].get_xlim() == (0, 30)


def test_groups_far_apart_get_panels_of_their_own(figures: "list[Figure]", tmp_path: Path) -> None:
    schedule({"head": [1000.0, 0.0], "conv": [0.2, 0.0]}, tmp_path / "schedule.png", epochs=10)
    assert [list(shown(figures[0], i)) for i in range(2)] == [["head"], ["conv"]]
    low, high = figures[0].axes[1].get_ylim()
    assert low < 0
    assert 0.2 < high < 1
    schedule({}, tmp_path / "none.png", epochs=10)
    schedule({"frozen": [0.0, 0.0]}, tmp_path / "zero.png", epochs=10)
    assert (tmp_path / "none.png").exists()
    assert (tmp_path / "zero.png").exists()


def test_equal_pictures_are_equal_bytes_and_whole(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        curves(ROWS, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(StorageError, match="cannot write"):
        curves(ROWS, tmp_path / "nowhere" / "a.png")


def test_colours_are_the_published_ones() -> None:
    """Okabe and Ito's table, in decimal; without yellow, which is too pale for lines."""
    published = {(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (0, 114, 178), (213, 94, 0), (204, 121, 167)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS} == published
    assert len(COLOURS) == len(published)
