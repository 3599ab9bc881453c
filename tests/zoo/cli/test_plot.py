"""The picture of an entry: what is counted, and that it gets drawn for few and for many classes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from training import plots
from zoo.cli.plot import commonest, confusion, draw_entry
from zoo.predictions import SplitPredictions

ROWS = [
    {"epoch": 1.0, "train_loss": 1.5, "train_accuracy": 0.5, "val_accuracy": float("nan"), "lr": 0.1, "seconds": 9.0},
    {"epoch": 2.0, "train_loss": 0.5, "train_accuracy": 0.75, "val_accuracy": 0.7, "lr": 0.0, "seconds": 18.0},
]


def slow_confusion(stored: SplitPredictions) -> npt.NDArray[np.int64]:
    """Count one image after the other: the class of the largest mean probability."""
    counts = np.zeros((stored.views["none"].shape[1],) * 2, np.int64)
    for i, label in enumerate(stored.labels):
        probs = np.zeros(len(counts))
        for logits in stored.views.values():
            powers = [np.exp(float(x) - float(max(logits[i]))) for x in logits[i]]
            probs += np.array(powers) / sum(powers)
        counts[label, int(np.argmax(probs))] += 1
    return counts


def some(images: int, classes: int, seed: int) -> SplitPredictions:
    rng = np.random.default_rng(seed)
    views = {view: rng.normal(0, 3, (images, classes)).astype(np.float16) for view in ("none", "flip")}
    return SplitPredictions(views, rng.integers(0, classes, images), "ab" * 32)


@pytest.mark.parametrize(("images", "classes"), [(300, 3), (500, 10), (1, 2), (50, 100)])
def test_confusion_is_counted_as_one_would_by_hand(images: int, classes: int) -> None:
    stored = some(images, classes, seed=classes)
    counts = confusion(stored)
    np.testing.assert_array_equal(counts, slow_confusion(stored))
    assert counts.sum() == images
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(stored.labels, minlength=classes))


def test_views_are_merged_by_their_probabilities() -> None:
    # Summed logits would say class 1 (0 against 1); the mean of the probabilities says class 0.
    views = {"none": np.array([[9, 0, -9]], np.float16), "flip": np.array([[-9, 1, 0]], np.float16)}
    counts = confusion(SplitPredictions(views, np.array([2]), "ab" * 32))
    assert np.argwhere(counts).tolist() == [[2, 0]]


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=3, max_size=3), st.integers(0, 9))
def test_commonest_mistakes(table: list[list[int]], most: int) -> None:
    found = commonest(np.array(table), most)
    wanted = sorted((-n, i, j) for i, row in enumerate(table) for j, n in enumerate(row) if i != j and n)
    assert found == [(i, j, -n) for n, i, j in wanted[:most]]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list that takes the figures as they get saved."""
    figures: list[Figure] = []
    save = plots.save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    return figures


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))


@pytest.mark.parametrize("rows", [ROWS, []], ids=["curve", "none"])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_picture(
    classes: int, rows: Sequence[dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    counts = confusion(some(300, classes, seed=1))
    draw_entry(tmp_path / "a.png", "tiny", counts, names_of(classes), rows)
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 600
    (figure,) = figures
    accuracy = 100 * np.trace(counts) / 300
    assert figure.get_suptitle() == f"tiny, {accuracy:.2f} % of 300 test images with flip"
    *curves, mistakes, matrix = figure.axes
    assert [axes.get_ylabel() for axes in curves] == (["loss (nats)", "accuracy (%)"] if rows else [])
    if rows:
        lines = {line.get_label(): line.get_ydata() for line in curves[1].lines}
        assert lines.keys() == {"training  75.00", "validation  70.00"}
        np.testing.assert_allclose(lines["validation  70.00"], [np.nan, 70])  # type: ignore[arg-type]
    assert [bar.get_width() for bar in mistakes.patches if isinstance(bar, Rectangle)] == [
        n for *_, n in commonest(counts, 10)
    ]
    assert [t.get_text() for t in matrix.get_yticklabels()] == list(names_of(classes))
    numbers = {tuple(map(int, reversed(t.get_position()))): t.get_text() for t in matrix.texts}
    assert numbers == {(i, j): f"{counts[i, j]}" for i, j in np.argwhere(counts).tolist()}


@pytest.mark.parametrize(("classes", "named"), [(100, 100), (401, 134)])
def test_many_classes(classes: int, named: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, _: figures.append(figure))
    draw_entry(tmp_path / "a.png", "tiny", confusion(some(900, classes, seed=1)), names_of(classes), ROWS)
    matrix = figures[0].axes[3]
    assert len(matrix.get_yticks()) == named
    assert not matrix.texts, "numbers would not be readable"
    assert figures[0].axes[4].get_ylabel() == "mistakes (images)"
    size = float(matrix.get_yticklabels()[0].get_fontsize())
    assert 0.85 * figures[0].get_figheight() * 72 / named > size, "a name is no higher than its row"


def test_equal_pictures_are_equal_bytes(tmp_path: Path) -> None:
    counts = confusion(some(300, 3, seed=1))
    for name in ("a.png", "b.png"):
        draw_entry(tmp_path / name, "tiny", counts, names_of(3), ROWS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_mistakes_and_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    draw_entry(tmp_path / "a.png", "tiny", np.diag([3, 4]), names_of(2))
    assert figures[0].axes[0].get_title(loc="left") == "no mistakes"
    draw_entry(tmp_path / "b.png", "tiny", np.zeros((2, 2), np.int64), names_of(2))
    assert "0.00 % of 0 test images" in figures[1].get_suptitle()


def test_names_that_are_no_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    names = ("$\\bad{", "猫\ncat", "x" * 80)
    draw_entry(tmp_path / "a.png", "$\\frac", np.full((3, 3), 5), names, [{"epoch": 1.0, "$x_loss": 1.0}])
    shown = [t.get_text() for t in figures[0].axes[-1].get_yticklabels()]
    assert shown == [r"\$\bad{", "猫 cat", "x" * 23 + "…"]
