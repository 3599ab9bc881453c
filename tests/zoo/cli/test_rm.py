"""`zoo rm`: all of the named cache entries or none, and never anything else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo.conftest import Outcome, file_entry, listing

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
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith(f"error: cannot write {cache / 'linked'}: ")
    assert listing(outside) == before
