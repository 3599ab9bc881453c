"""Ridges against the quantity that they keep constant, and pictures of sweeps read off the figure."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.figures import keep_figures, xs, ys
from training import heatmap as module
from training.heatmap import Axis, heatmap, line, ridge, ridge_name
from training.statistics import Spread, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATE = Axis("optimizer.lr", ("0.05", "0.1", "0.2", "0.4"))
BATCH = Axis("batch_size", ("64", "128", "256"))
MOMENTUM = Axis("optimizer.momentum", ("0.8", "0.9", "0.95"))
DECAY = Axis("optimizer.weight_decay", ("1e-4", "2e-4", "4e-4"))
POLICY = Axis("augment.policy", ("none", "autoaugment"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> "list[Figure]":
    return keep_figures(monkeypatch, module)


def test_names_of_ridges() -> None:
    assert ridge_name(RATE, BATCH) == ridge_name(BATCH, RATE) == "lr / N"
    assert ridge_name(RATE, MOMENTUM) == "lr / (1 - rho)"
    assert ridge_name(DECAY, RATE) == "lr * wd"
    assert ridge_name(BATCH, MOMENTUM) is None
    assert ridge_name(RATE, POLICY) is None
    assert ridge_name(RATE, Axis("optimizer.weight_decay", ("0", "1e-4"))) is None, "no logarithm"
    assert ridge_name(RATE, Axis("batch_size", ("64", "all"))) is None
    assert ridge_name(Axis("groups.0.lr", ("1", "2")), BATCH) == "lr / N"


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (RATE, BATCH, [(0, 0), (1, 1), (2, 2)]),  # twice the rate, twice the batch
        (BATCH, RATE, [(0, 1), (1, 2), (2, 3)]),
        (RATE, MOMENTUM, [(1, 2), (2, 1), (3, 0)]),  # 0.1 / 0.05 = 0.2 / 0.1 = 0.4 / 0.2
        (RATE, DECAY, [(0, 2), (1, 1), (2, 0)]),
    ],
)
def test_a_ridge_runs_through_the_cells_of_one_value(x: Axis, y: Axis, cells: list[tuple[int, int]]) -> None:
    for through in cells:
        points = ridge(x, y, through, points=4001)
        for cell in cells:
            assert np.hypot(*(points - cell).T).min() < 2e-3


QUANTITIES: dict[str, Callable[[Any, Any], Any]] = {
    "batch_size": lambda rate, images: rate / images,
    "momentum": lambda rate, rho: rate / (1 - rho),
    "weight_decay": lambda rate, decay: rate * decay,
}


@given(
    st.lists(st.floats(1e-4, 10), min_size=2, max_size=5, unique=True),
    st.lists(st.floats(0.001, 0.99), min_size=2, max_size=5, unique=True),
    st.sampled_from(sorted(QUANTITIES)),
    st.data(),
)
def test_a_ridge_keeps_its_quantity_between_the_cells_too(
    rates: list[float], others: list[float], kind: str, data: st.DataObject
) -> None:
    others = [round(1000 * v) + 2 for v in others] if kind == "batch_size" else others
    others = sorted(set(others))
    if len(others) < 2 or min(b / a for a, b in zip(sorted(rates), sorted(rates)[1:], strict=False)) < 1.001:
        return
    x, y = Axis("lr", tuple(map(repr, rates))), Axis(kind, tuple(map(repr, others)))
    through = (data.draw(st.integers(0, len(rates) - 1)), data.draw(st.integers(0, len(others) - 1)))
    points = ridge(x, y, through)
    assert ((points >= -0.5 - 1e-9) & (points <= np.array([len(rates), len(others)]) - 0.5 + 1e-9)).all()
    # Independently: a setting runs evenly in its logarithm between the centres of two cells.
    logs: Callable[[Any], Any] = {"momentum": lambda v: np.log(1 - v)}.get(kind, np.log)
    inverse: Callable[[Any], Any] = {"momentum": lambda v: 1 - np.exp(v)}.get(kind, np.exp)
    inside = points[((points >= 0) & (points <= [len(rates) - 1, len(others) - 1])).all(axis=1)]
    rate = np.exp(np.interp(inside[:, 0], range(len(rates)), np.log(sorted(rates))))
    other = inverse(np.interp(inside[:, 1], range(len(others)), logs(np.array(others))))
    wanted = QUANTITIES[kind](sorted(rates)[through[0]], others[through[1]])
    assert QUANTITIES[kind](rate, other) == pytest.approx(np.full(len(inside), wanted), rel=1e-6)


def test_axes_know_numbers_from_words() -> None:
    assert Axis("lr", ("0.2", "1e-1")).ordered == ("1e-1", "0.2")
    assert POLICY.ordered == ("none", "autoaugment")
    assert POLICY.numbers is None
    assert RATE.by_ratio
    assert not Axis("lr", ("0.1", "0.2", "0.3")).by_ratio
    assert not Axis("lr", ("0.1", "0.2")).by_ratio, "two values say nothing"
    assert not Axis("lr", ("0", "0.1", "0.2")).by_ratio
    assert RATE.label == "learning rate   (optimizer.lr)"
    assert POLICY.label == "augment.policy"


def cells_of(x: Axis, y: Axis) -> dict[tuple[str, str], Spread]:
    """Accuracy 0.90 in the first cell, and 0.01 more to the right and 0.001 more upwards."""
    return {
        (a, b): spread([0.899 + 0.01 * i + 0.001 * j, 0.901 + 0.01 * i + 0.001 * j])
        for i, a in enumerate(x.ordered)
        for j, b in enumerate(y.ordered)
    }


def test_a_heatmap_says_each_cells_numbers_and_frames_the_best(figures: "list[Figure]", tmp_path: Path) -> None:
    cells = cells_of(RATE, BATCH)
    del cells["0.05", "256"]
    heatmap(RATE, BATCH, cells, tmp_path / "heatmap.png", "fastnet")
    axes = figures[0].axes[0]
    texts = {tuple(map(int, t.get_position())): t.get_text() for t in axes.texts}
    assert len(texts) == 12
    assert texts[0, 0] == "90.00\n±0.14"
    assert texts[3, 1] == "93.10\n±0.14"
    assert texts[0, 2] == "none"
    (frame,) = axes.patches
    assert frame.get_xy() == (2.5, 1.5)  # type: ignore[attr-defined]  # the last cell: 93.2 %
    assert [t.get_text() for t in axes.get_xticklabels()] == list(RATE.values)
    assert [t.get_text() for t in axes.get_yticklabels()] == list(BATCH.values)
    assert len(axes.lines) == 4
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["lr / N constant, through the best (others dashed)"]


def test_a_diverged_run_does_not_take_the_contrast(figures: "list[Figure]", tmp_path: Path) -> None:
    cells = cells_of(RATE, BATCH) | {("0.05", "64"): spread([0.1])}
    heatmap(RATE, BATCH, cells, tmp_path / "heatmap.png")
    low, high = figures[0].axes[0].images[0].get_clim()
    assert high == pytest.approx(93.2)
    assert 85 < low < 91


@pytest.mark.parametrize("cells", [{}, {("0.1", "none"): Spread(1, 0.9, None)}])
def test_a_map_of_words_or_of_little(cells: dict[tuple[str, str], Spread], tmp_path: Path) -> None:
    heatmap(RATE, POLICY, cells, tmp_path / "heatmap.png")
    assert (tmp_path / "heatmap.png").stat().st_size > 5000


def test_a_line_has_a_dot_for_each_seed_and_the_means(figures: "list[Figure]", tmp_path: Path) -> None:
    line(RATE, {"0.1": [0.9, 0.92], "0.05": [0.8], "0.4": []}, tmp_path / "line.png")
    axes = figures[0].axes[0]
    dots, means = axes.lines[:2]
    assert xs(dots) == [0.05, 0.1, 0.1]
    assert ys(dots) == pytest.approx([80, 90, 92])
    assert xs(means) == [0.05, 0.1]
    assert ys(means) == pytest.approx([80, 91])
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == list(RATE.values)


def test_a_line_over_words(figures: "list[Figure]", tmp_path: Path) -> None:
    line(POLICY, {"none": [0.9], "autoaugment": [0.93]}, tmp_path / "line.png")
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "linear"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["none", "autoaugment"]
    assert axes.get_legend() is None
