"""What the plots draw: read off the artists, not off pictures."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ensemble.report.diagrams import agreement, confusion, latencies, reliability
from ensemble.report.front import MULTIPLY_ADDS, cost
from ensemble.report.record import Record
from ensemble.report.scatter import pareto, tip


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def ends(line: Line2D) -> tuple[list[float], list[float]]:
    """Return a line's coordinates."""
    xs, ys = (np.asarray(values, float).tolist() for values in line.get_data())
    return xs, ys


def test_every_point_is_drawn_where_it_is_with_its_interval_and_tip(record: Callable[..., Record]) -> None:
    made = record()
    drawing = pareto(made)
    (axes,) = drawing.figure.axes
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert len(lines) == len(made.points) == len(drawing.tips)
    bars = {tuple(ends(line)[1]) for line in axes.lines if len(ends(line)[0]) == 2}
    for i, point in enumerate(made.points):
        line = lines[f"point{i}"]
        assert ends(line) == ([cost(point, "ms")], [100 * point.scores.accuracy])
        low, high = point.scores.accuracy_ci95
        assert (100 * low, 100 * high) in bars
        assert drawing.tips[f"point{i}"] == tip(point)
    front = [p for p in made.points if p.front]
    assert texts(axes) == [str(n) for n in range(1, len(front) + 1)]
    (legend,) = drawing.figure.legends
    said = {text.get_text() for text in legend.get_texts()}
    assert {"student", "cascade", "chosen", "front", "budget", "PyTorch bf16", "ONNX Runtime fp32"} <= said


def test_without_times_cost_is_multiply_adds(record: Callable[..., Record]) -> None:
    made = record(timed=False, budget=None)
    drawing = pareto(made)
    (axes,) = drawing.figure.axes
    assert axes.get_xlabel() == "multiply-adds for an image (G)"
    drawn = sorted(ends(line)[0][0] for line in axes.lines if line.get_gid())
    assert drawn == sorted(cost(p, MULTIPLY_ADDS) or 0 for p in made.points)
    assert latencies(made) is None


def test_a_crowd_off_the_front_is_drawn_together(record: Callable[..., Record]) -> None:
    made = record(points=400, images=40)
    drawing = pareto(made)
    front = [f"point{i}" for i, p in enumerate(made.points) if p.front]
    assert sorted(drawing.tips) == sorted(front)
    lines = [line for line in drawing.figure.axes[0].lines if str(line.get_marker()) in {*"o*sD^"}]
    drawn = sum(len(ends(line)[0]) for line in lines)
    assert drawn == len(made.points) + 1, "and the ring around the choice"


def test_the_matrix_has_every_count_and_names(record: Callable[..., Record]) -> None:
    made = record()
    drawing = confusion(made)
    (axes,) = drawing.figure.axes
    counts = np.array(made.closeup.confusion)
    assert texts(axes) == [f"{n:,}" for n in counts.ravel() if n]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(made.classes)
    wrong = counts.sum() - counts.trace()
    assert f"{wrong:,} mistakes of {counts.sum():,}" in drawing.alt
    opacity = {p.get_gid(): p.get_alpha() or 0 for p in axes.patches if isinstance(p, Rectangle)}
    np.fill_diagonal(counts, 0)
    darkest = np.unravel_index(counts.argmax(), counts.shape)
    assert max(opacity, key=lambda gid: opacity[gid]) == f"cell{darkest[0]}-{darkest[1]}"


def test_a_large_matrix_is_a_picture_without_numbers(record: Callable[..., Record]) -> None:
    drawing = confusion(record(classes=tuple(f"c{i}" for i in range(100)), images=300))
    (axes,) = drawing.figure.axes
    assert texts(axes) == []
    assert len(axes.images) == 1
    assert drawing.tips == {}


def test_bars_are_as_high_as_the_accuracy_of_their_bin(record: Callable[..., Record]) -> None:
    made = record()
    upper, lower = reliability(made).figure.axes
    filled = [b for b in made.closeup.reliability if b.images]
    heights = [p.get_height() for p in upper.patches if isinstance(p, Rectangle)]
    np.testing.assert_allclose(heights, [100 * (b.accuracy or 0) for b in filled])
    shares = [p.get_height() for p in lower.patches if isinstance(p, Rectangle)]
    assert sum(shares) == 100


def test_pairs_and_curves_are_drawn(record: Callable[..., Record]) -> None:
    made = record()
    drawing = agreement(made)
    assert drawing is not None
    assert texts(drawing.figure.axes[0]) == ["90.0"] * 12
    assert agreement(replace(made, agreement=None)) is None
    many = agreement(record(members=30))
    assert many is not None
    assert len(many.figure.axes[0].images) == 1
    curves = latencies(made)
    assert curves is not None
    assert len(curves.figure.axes[0].lines) == 6
