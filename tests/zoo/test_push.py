"""Pushing to a folder, and to a source that is far away."""

import json
from pathlib import Path

import pytest

from tests.zoo.conftest import file_entry, flip_bit, listing, sample_predictions
from tests.zoo.far import Counting
from zoo import push as module
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, UsageError
from zoo.pull import pull_entry
from zoo.push import plan_push, push
from zoo.sources.folder import FolderSource, write_index
from zoo.sources.remote import RemoteSource


@pytest.fixture
def mine(tmp_path: Path) -> list[Entry]:
    return [file_entry(tmp_path / "mine", name, predictions=sample_predictions()) for name in ("a-seed1", "b-seed1")]


def test_to_a_folder(mine: list[Entry], tmp_path: Path) -> None:
    team = tmp_path / "team"
    done = push(mine, str(team))
    assert (list(done.new), list(done.same)) == (["a-seed1", "b-seed1"], [])
    assert FolderSource(team).names() == ["a-seed1", "b-seed1"]
    for entry in mine:
        assert listing(team / entry.name) == listing(entry.folder)
        Entry(entry.name, team / entry.name, "team").verify()
    before = (team / "index.json").read_bytes()
    write_index(team)
    assert (team / "index.json").read_bytes() == before, "the index is that of the folder"


def test_once_more_is_nothing_new(mine: list[Entry], tmp_path: Path) -> None:
    push(mine[:1], str(tmp_path / "team"))
    stamp = (tmp_path / "team" / "index.json").stat().st_mtime_ns
    done = push(mine[:1], str(tmp_path / "team"))
    assert (dict(done.new), list(done.same)) == ({}, ["a-seed1"])
    assert (tmp_path / "team" / "index.json").stat().st_mtime_ns == stamp
    done = push(mine, str(tmp_path / "team"))
    assert (list(done.new), list(done.same)) == (["b-seed1"], ["a-seed1"])


def test_another_entry_of_the_name(mine: list[Entry], tmp_path: Path) -> None:
    team = tmp_path / "team"
    push(mine, str(team))
    other = file_entry(tmp_path / "other", "a-seed1", recipe="other")
    before = listing(team)
    for use in (plan_push, push):
        with pytest.raises(UsageError, match=r"team has another 'a-seed1' already \(--replace replaces it\)$"):
            use([mine[1], other], str(team))
    assert listing(team) == before
    push([other], str(team), replace=True)
    assert listing(team / "a-seed1") == listing(other.folder)
    assert FolderSource(team).names() == ["a-seed1", "b-seed1"]


def test_what_is_damaged_or_partial_is_not_pushed(mine: list[Entry], tmp_path: Path) -> None:
    flip_bit(mine[0].folder / "model.safetensors", 99)
    (mine[1].folder / "model.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors is damaged"):
        push(mine[:1], str(tmp_path / "team"))
    with pytest.raises(DataError, match="'b-seed1' has no weights here, only its predictions: `zoo pull b"):
        push(mine[1:], str(tmp_path / "team"))
    assert not (tmp_path / "team" / "index.json").exists()


def test_a_folder_that_had_no_index_gets_a_whole_one(mine: list[Entry], tmp_path: Path) -> None:
    file_entry(tmp_path / "team", "old-seed1")
    push(mine, str(tmp_path / "team"))
    index = json.loads((tmp_path / "team" / "index.json").read_text())
    assert sorted(index["entries"]) == ["a-seed1", "b-seed1", "old-seed1"]


def test_a_dry_run_writes_nothing(mine: list[Entry], tmp_path: Path) -> None:
    plan = plan_push(mine, str(tmp_path / "team"))
    assert {name: about.path for name, about in plan.new.items()} == {"a-seed1": "a-seed1", "b-seed1": "b-seed1"}
    assert not (tmp_path / "team").exists()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let any URL mean a folder that is far away."""
    folder = tmp_path / "far"
    folder.mkdir()
    monkeypatch.setattr(module, "open_transport", lambda _to: Counting(folder))
    return folder


def test_what_is_pushed_can_be_pulled(mine: list[Entry], far: Path) -> None:
    push(mine, "far://away/zoo")
    source = RemoteSource(Counting(far))
    for entry in mine:
        there = source.get(entry.name)
        assert there
        assert listing(pull_entry(there).folder) == listing(entry.folder)


def test_an_only_entry_of_the_sources_name_lies_at_its_root(mine: list[Entry], far: Path) -> None:
    done = push(mine[:1], "far://away/a-seed1@main")
    assert done.new["a-seed1"].path == ""
    assert listing(far).keys() == {*listing(mine[0].folder), "index.json"}
    there = RemoteSource(Counting(far)).get("a-seed1")
    assert there
    assert there.row().where == "far://away"
    assert listing(pull_entry(there).folder) == listing(mine[0].folder)
    assert push(mine[:1], "far://away/a-seed1").same == ["a-seed1"]
    done = push(mine[1:], "far://away/a-seed1")
    assert done.new["b-seed1"].path == "b-seed1"
    assert {name: about.path for name, about in done.index.items()} == {"a-seed1": "", "b-seed1": "b-seed1"}
