"""`zoo push` and `zoo index`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo.conftest import Outcome, file_entry, listing

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.fixture
def cache(zoo_home: Path) -> Path:
    for name in ("a-seed1", "a-seed2"):
        file_entry(zoo_home / "entries", name)
    return zoo_home / "entries"


def test_patterns(command: Command, cache: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    assert command("push", "a-*", "a-seed1", "--to", team) == Outcome(
        0, "".join(f"a-seed{i}: pushed 0.0 MB to {team}/a-seed{i}\n" for i in (1, 2)), ""
    )
    for name in ("a-seed1", "a-seed2"):
        assert listing(team / name) == listing(cache / name)
    assert command("push", "a-seed1", "--to", team) == Outcome(0, "a-seed1: there already, the same\n", "")
    listed = command("list", "--from", team)
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.count("a-seed") == 2


@pytest.mark.usefixtures("cache")
def test_quiet_and_dry_run(command: Command, tmp_path: Path) -> None:
    team = tmp_path / "team"
    assert command("push", "a-seed1", "--to", team, "--dry-run") == Outcome(
        0, f"a-seed1: would push 0.0 MB to {team}/a-seed1\n", ""
    )
    assert not team.exists()
    assert command("push", "a-seed1", "--to", team, "-q") == Outcome(0, "", "")


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["b-seed1", "--to", "team"], 1, "no entry 'b-seed1'"),
        (["a-seed1"], 2, "--to"),
        (["a-seed1", "--to", "ftp://team/zoo"], 2, "not ftp://"),
        (["a-seed1", "--to", "http://example.org/zoo"], 2, "can only be read"),
        (["a-seed1", "--to", "https://127.0.0.1:1/zoo"], 2, "can only be read"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_errors_are_one_line(command: Command, words: list[str], code: int, line: str) -> None:
    shown = command("push", *words)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1


def test_index(command: Command, cache: Path, tmp_path: Path) -> None:
    assert command("index", cache) == Outcome(0, f"{cache / 'index.json'}: 2 entries\n", "")
    assert command("index", cache, "-q") == Outcome(0, "", "")
    assert command("index", tmp_path / "none") == Outcome(1, "", f"error: {tmp_path / 'none'} is not a folder\n")
    (cache / "a-seed1" / "model.safetensors").unlink()
    damaged = command("index", cache)
    assert (damaged.code, damaged.out) == (1, f"{cache / 'index.json'}: 1 entries\n")
    assert damaged.err.startswith("error: a-seed1 is left out: ")
    assert "model.safetensors cannot be read" in damaged.err


def test_index_json(command: Command, cache: Path) -> None:
    shown = command("index", cache, "--json")
    about = {"index": str(cache / "index.json"), "entries": ["a-seed1", "a-seed2"], "left_out": {}}
    assert (shown.code, json.loads(shown.out), shown.err) == (0, about, "")
    (cache / "a-seed1" / "model.safetensors").unlink()
    shown = command("index", cache, "--json")
    (problem,) = shown.err.splitlines()
    found = json.loads(shown.out)
    assert (shown.code, found["entries"]) == (1, ["a-seed2"])
    assert problem == f"error: a-seed1 is left out: {found['left_out']['a-seed1']}"


def test_json(command: Command, cache: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"

    def rows(state: str, *names: str) -> list[dict[str, object]]:
        """Return what is said of entries, with the sizes that their files have."""
        sizes = {n: sum(map(len, listing(cache / n).values())) for n in names}
        sums = {n: (cache / n / "SHA256SUMS").stat().st_size for n in names}
        bytes_ = {n: 0 if state == "there already" else sizes[n] - sums[n] for n in names}
        return [{"name": n, "where": f"{team}/{n}", "bytes": bytes_[n], "state": state} for n in names]

    words = ("--to", team, "--json", "-q")
    would = command("push", "a-*", *words, "--dry-run")
    assert (would.code, json.loads(would.out), would.err) == (0, rows("would push", "a-seed1", "a-seed2"), "")
    assert json.loads(command("push", "a-seed2", *words).out) == rows("pushed", "a-seed2")
    assert json.loads(command("push", "a-*", *words).out) == [
        *rows("pushed", "a-seed1"),
        *rows("there already", "a-seed2"),
    ]
