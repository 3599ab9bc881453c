"""`zoo rm`: all of the named cache entries or none, and never anything else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo.conftest import Outcome, file_entry, listing
from zoo import store
from zoo.errors import StorageError

Command = Callable[..., Outcome]


@pytest.fixture
def cache(package: Path, zoo_home: Path) -> Path:
    file_entry(package / "builtin", "shipped")
    for name in ("mine-seed1", "mine-seed2", "other"):
        file_entry(zoo_home / "entries", name)
    return zoo_home / "entries"


def test_entries_are_deleted(command: Command, cache: Path) -> None:
    gone = [cache / "mine-seed1", cache / "other"]
    assert command("rm", "mine-seed1", "other") == Outcome(0, f"deleted {gone[0]}\ndeleted {gone[1]}\n", "")
    assert [p.name for p in cache.iterdir()] == ["mine-seed2"]


def test_quiet(command: Command, cache: Path) -> None:
    assert command("rm", "-q", "other") == Outcome(0, "", "")
    assert not (cache / "other").exists()


def test_a_name_given_twice(command: Command, cache: Path) -> None:
    assert command("rm", "other", "other") == Outcome(0, f"deleted {cache / 'other'}\n", "")


def test_dry_run(command: Command, cache: Path) -> None:
    before = listing(cache)
    assert command("rm", "other", "--dry-run") == Outcome(0, f"would delete {cache / 'other'}\n", "")
    assert listing(cache) == before


@pytest.mark.parametrize(
    ("names", "code", "line"),
    [
        (["mine-seed1", "mine-seed3"], 1, "no entry 'mine-seed3' in the cache"),
        (["mine-seed3"], 1, "did you mean 'mine-seed"),
        (["mine-seed1", "shipped"], 2, "'shipped' is builtin"),
        (["mine-seed1", "../entries/other"], 2, "not a valid entry name"),
        (["yours-*"], 1, "no entry matches 'yours-*'"),
        ([".."], 2, "not a valid entry name"),
        ([], 2, "NAME"),
    ],
)
def test_one_bad_name_and_nothing_is_deleted(
    command: Command, cache: Path, package: Path, names: list[str], code: int, line: str
) -> None:
    before = listing(cache), listing(package)
    shown = command("rm", *names)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1
    assert (listing(cache), listing(package)) == before


def test_a_link_out_of_the_cache(command: Command, cache: Path, tmp_path: Path) -> None:
    outside = file_entry(tmp_path / "outside", "linked").folder
    (cache / "linked").symlink_to(outside)
    before = listing(outside)
    shown = command("rm", "linked")
    assert shown == Outcome(0, f"deleted {cache / 'linked'}\n", "")
    assert not (cache / "linked").is_symlink()
    assert listing(outside) == before, "the link is gone, and no more"


def test_json(command: Command, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(state: str, *names: str) -> list[dict[str, str]]:
        return [{"name": name, "folder": str(cache / name), "state": state} for name in names]

    would = command("rm", "mine-*", "--json", "--dry-run")
    assert (would.code, would.err) == (0, "")
    assert json.loads(would.out) == rows("would delete", "mine-seed1", "mine-seed2")
    assert json.loads(command("rm", "mine-seed1", "--json", "-q").out) == rows("deleted", "mine-seed1")
    assert command("rm", "nothing", "--json").out == ""
    remove = store.remove

    def refuse(name: str) -> Path:
        if name == "other":
            raise StorageError("the disk said no")
        return remove(name)

    monkeypatch.setattr(store, "remove", refuse)
    broken = command("rm", "mine-seed2", "other", "--json")
    assert (broken.code, broken.err) == (1, "error: the disk said no\n")
    assert json.loads(broken.out) == rows("deleted", "mine-seed2"), "what is gone is said"
