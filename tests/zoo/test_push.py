"""Pushing to a folder, and to a source that is far away."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.zoo.conftest import file_entry, flip_bit, in_part, listing, sample_predictions
from tests.zoo.far import Counting, far
from zoo import push as module
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, UsageError
from zoo.pull import pull_entry
from zoo.push import plan_push, push
from zoo.sources.folder import FolderSource, write_index
from zoo.sources.index import encode_index, indexed
from zoo.sources.transport import ConflictError


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


def test_what_is_damaged_or_partial_is_not_pushed(mine: list[Entry], tmp_path: Path, zoo_home: Path) -> None:
    flip_bit(mine[0].folder / "model.safetensors", 99)
    part = in_part(mine[1], zoo_home)
    (part.folder / "model.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors is damaged"):
        push(mine[:1], str(tmp_path / "team"))
    with pytest.raises(DataError, match="'b-seed1' has no weights here, only its predictions: `zoo pull b"):
        push([part], str(tmp_path / "team"))
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
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let any URL mean a folder that is far away."""
    folder = tmp_path / "far"
    folder.mkdir()
    monkeypatch.setattr(module, "open_transport", lambda _to: Counting(folder))
    return folder


def test_what_is_pushed_can_be_pulled(mine: list[Entry], away: Path) -> None:
    push(mine, "far://away/zoo")
    source = far(Counting(away))
    for entry in mine:
        there = source.get(entry.name)
        assert there
        assert listing(pull_entry(there).folder) == listing(entry.folder)


def test_an_only_entry_of_the_sources_name_lies_at_its_root(mine: list[Entry], away: Path) -> None:
    done = push(mine[:1], "far://away/a-seed1@main")
    assert done.new["a-seed1"].path == ""
    assert listing(away).keys() == {*listing(mine[0].folder), "index.json"}
    there = far(Counting(away)).get("a-seed1")
    assert there
    assert there.row().where == "far://away"
    assert listing(pull_entry(there).folder) == listing(mine[0].folder)
    assert push(mine[:1], "far://away/a-seed1").same == ["a-seed1"]
    done = push(mine[1:], "far://away/a-seed1")
    assert done.new["b-seed1"].path == "b-seed1"
    assert {name: about.path for name, about in done.index.items()} == {"a-seed1": "", "b-seed1": "b-seed1"}


def test_what_is_gone_from_a_folder_is_pushed_again(mine: list[Entry], tmp_path: Path) -> None:
    team = tmp_path / "team"
    push(mine, str(team))
    shutil.rmtree(team / "a-seed1")
    done = push(mine, str(team))
    assert (list(done.new), list(done.same)) == (["a-seed1"], ["b-seed1"])
    assert listing(team / "a-seed1") == listing(mine[0].folder)


def test_what_is_damaged_in_a_folder_is_not_replaced_unasked(mine: list[Entry], tmp_path: Path) -> None:
    team = tmp_path / "team"
    push(mine, str(team))
    flip_bit(team / "a-seed1" / "config.json", 9)
    with pytest.raises(UsageError, match="has another 'a-seed1' already"):
        push(mine[:1], str(team))
    push(mine[:1], str(team), replace=True)
    Entry("a-seed1", team / "a-seed1", "team").verify()


def test_who_comes_second_adds_to_what_the_first_one_wrote(mine: list[Entry], away: Path) -> None:
    """As on a source that refuses to overwrite an index that was changed meanwhile."""
    real, tries = Counting.publish, list[int]()

    def publish(self: Counting, files: Mapping[str, bytes | Path], message: str) -> None:
        tries.append(1)
        if len(tries) == 1:  # another process was faster
            real(self, {f"b-seed1/{p.name}": p for p in mine[1].folder.iterdir()}, "Add b-seed1")
            content = encode_index({"b-seed1": indexed(mine[1], "b-seed1")})
            real(self, {"index.json": content}, "Add b-seed1")
            raise ConflictError("push again")
        real(self, files, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counting, "publish", publish)
        push(mine[:1], "far://away/zoo")
    assert far(Counting(away)).names() == ["a-seed1", "b-seed1"]
    assert len(tries) == 2


def test_who_never_gets_through_is_told(mine: list[Entry], away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: Counting, files: Mapping[str, bytes | Path], message: str) -> None:
        del self, files, message
        raise ConflictError("somebody else published meanwhile")

    monkeypatch.setattr(Counting, "publish", publish)
    with pytest.raises(ConflictError, match="somebody else published meanwhile"):
        push(mine[:1], "far://away/zoo")
    assert listing(away) == {}
