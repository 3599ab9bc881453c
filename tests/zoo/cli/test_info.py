"""`zoo info`: the card for people and as JSON."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CLASSES
from tests.zoo.conftest import WEIGHTS, Outcome, file_entry, flip_bit, in_part, sample_card
from zoo.card import Card
from zoo.entry import write_entry
from zoo.predictions import Predictions, SplitPredictions

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    file_entry(folder, "fastnet-seed1", metrics={"test": {"flip": 0.93726}}, training={"rule": "a\n---\nb"})
    monkeypatch.setenv("ZOO_SOURCE", str(folder))
    return folder


def test_the_card_for_people(command: Command, shelf: Path) -> None:
    shown = command("info", "fastnet-seed1")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("# fastnet-seed1\n"), "without the Hub's metadata"
    assert "| test | flip | 93.73 % |" in shown.out
    assert "- rule: a\n---\nb\n" in shown.out
    assert shown.out.endswith(f"\nin {shelf}: {shelf / 'fastnet-seed1'} (0.0 MB)\n\n")


def test_json(command: Command, shelf: Path) -> None:
    shown = command("info", "fastnet-seed1", "--json")
    assert (shown.code, shown.err) == (0, "")
    (table,) = json.loads(shown.out)
    known = {field.name for field in fields(Card)}
    assert table.keys() == known | {"source", "folder", "state"}
    assert (table["source"], table["folder"]) == (str(shelf), str(shelf / "fastnet-seed1"))
    assert table["state"] == "whole"
    stored = json.loads((shelf / "fastnet-seed1" / "config.json").read_text())
    assert {k: table[k] for k in known} == {k: stored[k] for k in known}


@pytest.mark.usefixtures("shelf")
def test_from_one_source(command: Command, tmp_path: Path) -> None:
    file_entry(tmp_path / "team", "fastnet-seed1", recipe="ours")
    shown = command("info", "fastnet-seed1", "--from", tmp_path / "team", "--json")
    assert json.loads(shown.out)[0]["recipe"] == "ours"


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("fastnet-sed1", 1, "error: no entry 'fastnet-sed1' in builtin, cache, "),
        ("../fastnet-seed1", 2, "error: not a valid entry name: '../fastnet-seed1'"),
        ("wrn-*", 1, "error: no entry matches 'wrn-*'"),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_names_that_lead_nowhere(command: Command, name: str, code: int, line: str) -> None:
    shown = command("info", name)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1
    if name == "fastnet-sed1":
        assert "did you mean 'fastnet-seed1'?" in shown.err


def test_a_damaged_card(command: Command, shelf: Path) -> None:
    path = shelf / "fastnet-seed1" / "config.json"
    flip_bit(path, 3)
    for words in ([], ["--json"]):
        shown = command("info", "fastnet-seed1", *words)
        assert (shown.code, shown.out) == (1, "")
        assert shown.err.startswith(f"error: {path} is damaged")


def test_a_file_that_is_gone(command: Command, shelf: Path) -> None:
    path = shelf / "fastnet-seed1" / "model.safetensors"
    path.unlink()
    shown = command("info", "fastnet-seed1")
    assert shown == Outcome(1, "", f"error: {path} is missing\n")


def test_a_pattern_shows_each_entry(command: Command, shelf: Path) -> None:
    file_entry(shelf, "fastnet-seed2")
    file_entry(shelf, "wrn-seed1")
    shown = json.loads(command("info", "fastnet-*", "--json").out)
    assert [card["name"] for card in shown] == ["fastnet-seed1", "fastnet-seed2"]


STORED = Predictions(
    {
        "test": SplitPredictions(
            {view: np.eye(10, dtype=np.float16)[[0, 1, 2, 2]] for view in ("none", "flip")}, np.arange(4), "ab" * 32
        )
    }
)
CURVE = b"epoch,train_loss,val_accuracy\n1,2.5,0.25\n2,1.5,0.5\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return a list that takes what would be drawn."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("zoo.cli.plot.draw_entry", lambda *given: calls.append(given))
    return calls


def test_plot(command: Command, shelf: Path, tmp_path: Path) -> None:
    write_entry(shelf / "drawn", sample_card("drawn"), WEIGHTS, STORED, extra={"metrics.csv": CURVE})
    path = tmp_path / "drawn.png"
    shown = command("info", "drawn", "--plot", path)
    assert (shown.code, shown.err) == (0, f"drawn: {path}\n")
    assert shown.out.startswith("# drawn\n")
    assert path.read_bytes().startswith(b"\x89PNG")
    shown = command("info", "drawn", "--plot", path, "--json")
    assert (shown.code, len(json.loads(shown.out))) == (0, 1)


def test_what_is_drawn(command: Command, shelf: Path, tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    write_entry(shelf / "with", sample_card("with"), WEIGHTS, STORED, extra={"metrics.csv": CURVE})
    file_entry(shelf, "without", predictions=STORED)
    for name in ("with", "without"):
        assert command("info", name, "--plot", tmp_path / "x.PNG").code == 0
    (path, title, counts, classes, rows), (*_, none) = drawn
    assert (path, title, classes) == (tmp_path / "x.PNG", "with: fastnet on cifar10", CLASSES)
    assert np.argwhere(counts).tolist() == [[0, 0], [1, 1], [2, 2], [3, 2]]
    assert rows == [
        {"epoch": 1, "train_loss": 2.5, "val_accuracy": 0.25},
        {"epoch": 2, "train_loss": 1.5, "val_accuracy": 0.5},
    ]
    assert none == []


def test_plots_that_are_refused(command: Command, shelf: Path, tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    file_entry(shelf, "fastnet-seed2", predictions=STORED)
    val_only = Predictions({"val": STORED.splits["test"]})
    file_entry(shelf, "val-only", predictions=val_only)
    file_entry(shelf, "three", predictions=STORED, classes=("a", "b", "c"))
    write_entry(shelf / "curved", sample_card("curved"), WEIGHTS, STORED, extra={"metrics.csv": b"epoch\nx\n"})
    for words, code, line in (
        (("fastnet-seed2", "--plot", "x.pdf"), 2, "--plot x.pdf: give one NAME, and a file that ends in .png"),
        (("fastnet-*", "--plot", "x.png"), 2, "--plot x.png: give one NAME"),
        (("fastnet-seed1", "--plot", "x.png"), 1, "fastnet-seed1 has no predictions.safetensors"),
        (("val-only", "--plot", "x.png"), 1, "val-only has no stored predictions on the test split"),
        (("three", "--plot", "x.png"), 1, f"{shelf / 'three'} has logits of 10 classes, and its card has 3"),
        (("curved", "--plot", "x.png"), 1, f"{shelf / 'curved' / 'metrics.csv'} is not the training curve"),
    ):
        shown = command("info", *words)
        assert (shown.code, shown.out) == (code, "")
        assert shown.err.startswith(f"error: {line}")
        assert shown.err.count("\n") == 1
    assert drawn == []
    missing = command("info", "fastnet-seed2", "--plot", tmp_path / "no" / "x.png")
    assert (missing.code, len(drawn)) == (0, 1)


def test_predictions_only_are_said(command: Command, tmp_path: Path, zoo_home: Path) -> None:
    folder = in_part(file_entry(tmp_path / "team", "far", predictions=STORED), zoo_home).folder
    (folder / "model.safetensors").unlink()
    assert command("info", "far").out.endswith(f"{folder} (0.0 MB, predictions only)\n\n")
    assert json.loads(command("info", "far", "--json").out)[0]["state"] == "predictions only"


def test_codes_in_a_card_do_not_reach_the_terminal(command: Command, shelf: Path) -> None:
    file_entry(shelf, "odd", training={"note": "\x1b]0;owned\x07"}, recipe="\x9b31m")
    shown = command("info", "odd")
    assert "- note: �]0;owned�\n" in shown.out
    assert all(c.isprintable() or c == "\n" for c in shown.out)
