"""`zoo list`: the table, the JSON, and entries that cannot be read."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from tests.zoo.conftest import Outcome, file_entry, flip_bit, in_part, refresh_sums
from zoo import store
from zoo.errors import SourceError
from zoo.predictions import Predictions, SplitPredictions

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    file_entry(
        folder,
        "fastnet-seed1",
        metrics={"test": {"flip": 0.93726}},
        parameters=1_972_792,
        multiply_adds=118_147_360,
        training={"log": "x" * 300_000},  # in the card and in the model card
    )
    file_entry(folder, "other-seed1", dataset="cifar100")
    monkeypatch.setenv("ZOO_SOURCE", str(folder))
    return folder


def cells(table: str) -> dict[str, list[str]]:
    """Return the rows of a printed table by their first cell, the header's too; a cell has no double spaces."""
    rows = [re.split("  +", line) for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes stdout a terminal of so many columns, for the table's purposes."""

    def make(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("zoo.cli.list.sys.stdout.isatty", lambda: True, raising=False)

    return make


def test_the_table(command: Command, shelf: Path) -> None:
    shown = command("list")
    assert (shown.code, shown.err) == (0, "")
    rows = cells(shown.out)
    assert list(rows) == ["name", "fastnet-seed1", "other-seed1"]
    assert rows["name"] == ["architecture", "dataset", "accuracy", "parameters", "multiply-adds", "size", "where"]
    assert rows["fastnet-seed1"] == ["fastnet", "cifar10", "93.73 %", "1.97 M", "0.12 G", "0.6 MB", str(shelf)]
    assert rows["other-seed1"] == ["fastnet", "cifar100", "0.0 MB", str(shelf)]


def test_nothing_is_cut_in_a_pipe(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    folder = tmp_path / ("deep" * 40)
    file_entry(folder, "a" * 100, dataset="d" * 50)
    shown = command("list", "--from", folder)
    assert cells(shown.out)["a" * 100] == ["fastnet", "d" * 50, "0.0 MB", str(folder)]


@pytest.mark.parametrize("width", [120, 100, 80])
def test_figures_are_not_cut_on_a_terminal(
    command: Command, shelf: Path, on_a_terminal: Callable[[int], None], width: int
) -> None:
    on_a_terminal(width)
    shown = command("list")
    assert (shown.code, shown.err) == (0, "")
    assert max(map(len, click.unstyle(shown.out).splitlines())) <= width
    *figures, where = cells(shown.out)["fastnet-seed1"]
    assert figures == ["fastnet", "cifar10", "93.73 %", "1.97 M", "0.12 G", "0.6 MB"]
    assert str(shelf).endswith(where.removeprefix("…"))


@pytest.mark.usefixtures("shelf")
def test_a_narrow_terminal_says_what_is_left_out(command: Command, on_a_terminal: Callable[[int], None]) -> None:
    on_a_terminal(60)
    shown = command("list")
    assert max(map(len, click.unstyle(shown.out).splitlines())) <= 60
    assert cells(shown.out)["fastnet-seed1"][:3] == ["cifar10", "93.73 %", "1.97 M"]
    assert shown.err.startswith("left out for want of room: architecture, multiply-adds (a wider window")


def test_json(command: Command, shelf: Path) -> None:
    shown = command("list", "--json")
    assert (shown.code, shown.err) == (0, "")
    first, second = json.loads(shown.out)
    files = [p for p in (shelf / "fastnet-seed1").iterdir() if p.name != "SHA256SUMS"]
    assert first == {
        "name": "fastnet-seed1",
        "source": str(shelf),
        "folder": str(shelf / "fastnet-seed1"),
        "architecture": "fastnet",
        "dataset": "cifar10",
        "accuracy": 0.93726,
        "parameters": 1_972_792,
        "multiply_adds": 118_147_360,
        "bytes": sum(p.stat().st_size for p in files),
        "state": "whole",
    }
    assert (second["name"], second["accuracy"]) == ("other-seed1", None)


@pytest.mark.parametrize(("pattern", "names"), [("fast*", ["fastnet-seed1"]), ("other-seed1", ["other-seed1"])])
@pytest.mark.usefixtures("shelf")
def test_a_pattern(command: Command, pattern: str, names: list[str]) -> None:
    assert [row["name"] for row in json.loads(command("list", pattern, "--json").out)] == names


@pytest.mark.usefixtures("shelf")
def test_a_pattern_that_matches_nothing(command: Command) -> None:
    shown = command("list", "fastnet-sed1")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: no entry matches 'fastnet-sed1'")
    assert "'fastnet-seed1'" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.usefixtures("shelf")
def test_from_one_source(command: Command, tmp_path: Path) -> None:
    file_entry(tmp_path / "team", "ours")
    rows = json.loads(command("list", "--from", tmp_path / "team", "--json").out)
    assert [(row["name"], row["source"]) for row in rows] == [("ours", str(tmp_path / "team"))]
    missing = command("list", "--from", tmp_path / "missing")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == f"error: source '{tmp_path / 'missing'}' is not a folder\n"
    scheme = command("list", "--from", "ftp://there")
    assert scheme.code == 2
    assert scheme.err.startswith("error: source 'ftp://there': ")


def test_nothing_anywhere(command: Command) -> None:
    assert command("list") == Outcome(0, "", "no entries in builtin, cache\n")
    assert command("list", "--json") == Outcome(0, "[]\n", "")


def test_damaged_entries_are_listed(command: Command, shelf: Path) -> None:
    flip_bit(shelf / "other-seed1" / "config.json", 3)
    rows = json.loads(command("list", "--json").out)
    assert [("damaged" in row) for row in rows] == [False, True]
    assert "config.json is damaged" in rows[1]["damaged"]
    shown = command("list")
    assert shown.code == 0
    assert cells(shown.out)["other-seed1"] == ["damaged", str(shelf)]
    assert cells(shown.out)["fastnet-seed1"][2] == "93.73 %"
    assert shown.err == "damaged: other-seed1 (`zoo verify NAME` says how)\n"


def test_entries_with_predictions_only_are_marked(command: Command, tmp_path: Path, zoo_home: Path) -> None:
    views = {view: np.zeros((3, 10), np.float16) for view in ("none", "flip")}
    stored = Predictions({"test": SplitPredictions(views, np.arange(3), "ab" * 32)})
    published = file_entry(tmp_path / "team", "far-seed1", predictions=stored, metrics={"test": {"flip": 0.5}})
    (in_part(published, zoo_home).folder / "model.safetensors").unlink()
    shown = command("list", "far-*")
    assert shown.err == ""
    assert cells(shown.out)["far-seed1"][2] == "50.00 %"
    assert cells(shown.out)["far-seed1"][-2:] == ["no weights", "cache"]
    assert cells(shown.out)["name"][-2:] == ["state", "where"]
    (row,) = json.loads(command("list", "far-*", "--json").out)
    assert (row["state"], row["accuracy"]) == ("predictions only", 0.5)


@pytest.mark.usefixtures("shelf")
def test_a_source_that_fails_hides_no_other(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        label = "hf://team/zoo"

        def names(self) -> list[str]:
            raise SourceError("hf://team/zoo cannot be reached")

    real = store.asked
    monkeypatch.setattr(store, "asked", lambda source, **given: [*real(source, **given), Broken()])
    shown = command("list")
    assert shown.code == 1
    assert list(cells(shown.out)) == ["name", "fastnet-seed1", "other-seed1"]
    assert shown.err == "error: hf://team/zoo cannot be reached\n"
    assert len(json.loads(command("list", "--json").out)) == 2
    monkeypatch.setattr(store, "asked", lambda *_, **__: [Broken()])
    assert command("list") == Outcome(1, "", "error: hf://team/zoo cannot be reached\n")


def test_sums_that_are_malformed_and_files_that_are_gone(command: Command, shelf: Path) -> None:
    (shelf / "other-seed1" / "SHA256SUMS").write_bytes(b"\xff")
    (shelf / "fastnet-seed1" / "model.safetensors").unlink()
    assert all("damaged" in row for row in json.loads(command("list", "--json").out))


def test_folders_that_are_no_entries_do_not_matter(command: Command, shelf: Path) -> None:
    for name in ("Not A Name", ".fastnet-seed2.x1", "empty"):
        (shelf / name).mkdir()
    for name in ("Not A Name", ".fastnet-seed2.x1"):
        (shelf / name / "SHA256SUMS").write_text("")
    assert [row["name"] for row in json.loads(command("list", "--json").out)] == ["fastnet-seed1", "other-seed1"]


def test_what_looks_like_markup_is_printed_as_it_is(command: Command, tmp_path: Path) -> None:
    file_entry(tmp_path, "odd", architecture="[/x][red]", dataset=":smile:")
    shown = command("list", "--from", tmp_path)
    assert shown.code == 0
    assert cells(shown.out)["odd"][:2] == ["[/x][red]", ":smile:"]


def test_codes_in_a_card_do_not_reach_the_terminal(command: Command, tmp_path: Path) -> None:
    file_entry(tmp_path, "odd", architecture="\x1b]0;owned\x07", dataset="a\nb")
    shown = command("list", "--from", tmp_path)
    assert cells(shown.out)["odd"][:2] == ["�]0;owned�", "a b"]


def test_the_card_of_another_entry_is_damage(command: Command, shelf: Path) -> None:
    (shelf / "fastnet-seed1").rename(shelf / "renamed")
    refresh_sums(shelf / "renamed")
    rows = json.loads(command("list", "renamed", "--json").out)
    assert "is the card of 'fastnet-seed1', not of 'renamed'" in rows[0]["damaged"]


def test_an_entry_without_a_card_does_not_hide_the_others(command: Command, shelf: Path) -> None:
    before = json.loads(command("list", "--json").out)
    broken = shelf / before[0]["name"]
    (broken / "config.json").unlink()
    refresh_sums(broken)
    after = json.loads(command("list", "--json").out)
    assert [row["name"] for row in after] == [row["name"] for row in before]
    assert "no config.json" in after[0]["damaged"]
    assert after[1:] == before[1:]
