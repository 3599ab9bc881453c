"""`zoo info`: the card for people and as JSON."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tests.zoo.conftest import Outcome, file_entry, flip_bit
from zoo.card import Card

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
    assert table.keys() == {field.name for field in fields(Card)} | {"source", "folder"}
    assert (table["source"], table["folder"]) == (str(shelf), str(shelf / "fastnet-seed1"))
    stored = json.loads((shelf / "fastnet-seed1" / "config.json").read_text())
    assert {k: v for k, v in table.items() if k not in {"source", "folder"}} == {
        k: v for k, v in stored.items() if k != "format"
    }


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
    assert shown == Outcome(1, "", f"error: {path}: No such file or directory\n")


def test_a_pattern_shows_each_entry(command: Command, shelf: Path) -> None:
    file_entry(shelf, "fastnet-seed2")
    file_entry(shelf, "wrn-seed1")
    shown = json.loads(command("info", "fastnet-*", "--json").out)
    assert [card["name"] for card in shown] == ["fastnet-seed1", "fastnet-seed2"]
