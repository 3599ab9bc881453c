"""`zoo pull`: into the cache, verified, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import files_up_to
from tests.zoo.conftest import Outcome, file_entry, flip_bit, listing
from training.recipe_file import recipe_names
from zoo.cli.progress import Progress

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.fixture
def cache(zoo_home: Path) -> Path:
    return zoo_home / "entries"


def pulled(name: str, source: Path, cache: Path) -> Outcome:
    """What a first pull of a small entry says."""
    return Outcome(0, f"{name}: 0.0 MB from {source}, in {cache / name}\n", "")


def test_a_name(command: Command, shelf: Path, cache: Path) -> None:
    assert command("pull", "a-seed1") == pulled("a-seed1", shelf, cache)
    assert listing(cache) == {f"a-seed1/{name}": content for name, content in listing(shelf / "a-seed1").items()}
    assert command("pull", "a-seed1") == Outcome(0, f"a-seed1: verified in {cache / 'a-seed1'}\n", "")


@pytest.mark.usefixtures("shelf")
def test_patterns_and_names_that_overlap(command: Command, cache: Path) -> None:
    shown = command("pull", "a-*", "a-seed1", "b-seed1")
    assert (shown.code, shown.err) == (0, "")
    assert [line.partition(":")[0] for line in shown.out.splitlines()] == ["a-seed1", "a-seed2", "b-seed1"]
    assert sorted(p.name for p in cache.iterdir()) == ["a-seed1", "a-seed2", "b-seed1"]


@pytest.mark.usefixtures("shelf")
def test_quiet(command: Command, cache: Path) -> None:
    assert command("pull", "a-seed1", "-q") == Outcome(0, "", "")
    assert (cache / "a-seed1").is_dir()


def test_dry_run(command: Command, shelf: Path, zoo_home: Path) -> None:
    assert command("pull", "a-*", "--dry-run") == Outcome(
        0, "".join(f"a-seed{i}: would pull 0.0 MB from {shelf / f'a-seed{i}'}\n" for i in (1, 2)), ""
    )
    assert not zoo_home.exists()


@pytest.mark.usefixtures("shelf")
def test_from_one_source(command: Command, tmp_path: Path, cache: Path) -> None:
    file_entry(tmp_path / "team", "a-seed1", recipe="ours")
    assert command("pull", "a-seed1", "--from", tmp_path / "team").code == 0
    assert '"recipe": "ours"' in (cache / "a-seed1" / "config.json").read_text()
    missing = command("pull", "b-seed1", "--from", tmp_path / "team")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith(f"error: no entry 'b-seed1' in {tmp_path / 'team'}")


def test_replace_mends_a_damaged_entry(command: Command, shelf: Path, cache: Path) -> None:
    command("pull", "a-seed1")
    flip_bit(cache / "a-seed1" / "model.safetensors", 9)
    damaged = command("pull", "a-seed1")
    assert (damaged.code, damaged.out) == (1, "")
    assert "model.safetensors is damaged" in damaged.err
    assert "`zoo pull --replace` it" in damaged.err
    assert command("pull", "a-seed1", "--replace") == pulled("a-seed1", shelf, cache)
    assert listing(cache / "a-seed1") == listing(shelf / "a-seed1")


@pytest.mark.usefixtures("shelf")
def test_replace_what_no_source_has(command: Command, cache: Path) -> None:
    file_entry(cache, "mine")
    before = listing(cache)
    shown = command("pull", "mine", "--replace")
    assert shown.code == 1
    assert shown.err.startswith("error: no entry 'mine' in builtin, ")
    assert listing(cache) == before


@pytest.mark.usefixtures("shelf")
def test_another_source_does_not_replace_unasked(command: Command, tmp_path: Path, cache: Path) -> None:
    command("pull", "a-seed1")
    before = listing(cache)
    file_entry(tmp_path / "team", "a-seed1", recipe="theirs")
    shown = command("pull", "a-seed1", "--from", tmp_path / "team")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: 'a-seed1' exists already in ")
    assert "--replace" in shown.err
    assert listing(cache) == before


@pytest.mark.parametrize("file", ["SHA256SUMS", "config.json", "model.safetensors", "README.md"])
def test_damage_at_the_source(command: Command, shelf: Path, zoo_home: Path, file: str) -> None:
    flip_bit(shelf / "a-seed1" / file, 5)
    shown = command("pull", "a-seed1")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert listing(zoo_home / "entries") == {}


def test_a_full_disk(command: Command, shelf: Path, cache: Path) -> None:
    file_entry(shelf, "big", training={"log": "x" * 20_000})
    with files_up_to(10_000):
        shown = command("pull", "big")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: cannot write ")
    assert shown.err.endswith(".README.md: File too large\n")
    assert not cache.exists()


def test_a_builtin_entry(command: Command, package: Path, shelf: Path) -> None:
    shipped = file_entry(package / "builtin", "a-seed1").folder
    assert command("pull", "a-seed1") == Outcome(0, f"a-seed1: verified in {shipped}\n", "")
    shadow = command("pull", "a-seed1", "--from", shelf, "--replace")
    assert (shadow.code, shadow.out) == (2, "")
    assert "builtin and cannot be shadowed" in shadow.err


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["a-sed1"], 1, "did you mean 'a-seed"),
        (["c-*"], 1, "no entry matches 'c-*'"),
        (["../shelf/a-seed1"], 2, "not a valid entry name"),
        ([], 2, "NAME"),
        (["a-seed1", "--from", "ftp://team/zoo"], 2, "source 'ftp://team/zoo'"),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_errors_are_one_line(command: Command, zoo_home: Path, words: list[str], code: int, line: str) -> None:
    shown = command("pull", *words)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1
    assert not zoo_home.exists()


@pytest.mark.usefixtures("shelf")
def test_one_bad_name_and_nothing_is_copied(command: Command, cache: Path) -> None:
    assert command("pull", "a-seed1", "missing").code == 1
    assert not cache.exists()


@pytest.mark.usefixtures("shelf")
def test_how_to_train_what_is_missing(command: Command) -> None:
    recipe = recipe_names()[0]
    assert f"zoo train {recipe} --seed 41 --data DIR" in command("pull", f"{recipe}-seed41").err
    for name in ("norecipe-seed41", f"{recipe}-seedx", recipe):
        assert "zoo train" not in command("pull", name).err


@pytest.mark.usefixtures("shelf")
def test_dry_run_says_what_pull_would(command: Command) -> None:
    assert command("pull", "a-seed1").code == 0
    again = command("pull", "a-seed1", "--dry-run")
    assert again == Outcome(0, "a-seed1: there already (cache)\n", "")


def test_json(command: Command, shelf: Path, cache: Path) -> None:
    def rows(state: str, *names: str) -> list[dict[str, object]]:
        """Return what is said of entries, with the sizes of their files."""
        sizes = {n: sum(len(c) for f, c in listing(shelf / n).items() if f != "SHA256SUMS") for n in names}
        here = state == "there already"
        return [
            {
                "name": n,
                "source": "cache" if here else str(shelf),
                "folder": str(cache / n),
                "bytes": 0 if here else sizes[n],
                "state": state,
            }
            for n in names
        ]

    would = command("pull", "a-*", "--json", "--dry-run")
    assert (would.code, json.loads(would.out), would.err) == (0, rows("would pull", "a-seed1", "a-seed2"), "")
    assert json.loads(command("pull", "a-seed1", "--json", "-q").out) == rows("pulled", "a-seed1")
    both = command("pull", "a-*", "--json")
    assert (both.code, both.err) == (0, "")
    assert json.loads(both.out) == rows("there already", "a-seed1") + rows("pulled", "a-seed2")
    flip_bit(shelf / "b-seed1" / "model.safetensors", 9)
    failed = command("pull", "a-seed1", "b-seed1", "--json")
    assert (failed.code, json.loads(failed.out)) == (1, rows("there already", "a-seed1")), "what was brought is said"
    assert failed.err.startswith("error: model.safetensors of 'b-seed1'")
    assert command("pull", "missing", "--json").out == ""


def test_what_arrived_before_counts_as_done(
    command: Command, shelf: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float, bool]] = []

    class Bar(Progress):
        def __init__(self, total: float, label: str, unit: str, *, quiet: bool = False, done: float = 0) -> None:
            seen.append((round(1e6 * total), round(1e6 * done), quiet))
            super().__init__(total, label, unit, quiet=quiet, done=done)

    monkeypatch.setattr("zoo.cli.pull.Progress", Bar)
    monkeypatch.setattr("zoo.cli.pull._SOON", 0)
    entry = file_entry(shelf, "big", training={"log": "x" * 20_000})
    parts = zoo_home / "incoming" / "big"
    parts.mkdir(parents=True)
    (parts / f"{entry.sums['config.json'][:16]}.config.json").write_bytes(b"x" * 5000)
    assert command("pull", "big", "-q").code == 0
    assert seen == [(entry.size, 5000, True)]


@pytest.mark.usefixtures("shelf")
def test_dry_run_refuses_what_pull_would(command: Command, tmp_path: Path) -> None:
    assert command("pull", "a-seed1").code == 0
    file_entry(tmp_path / "team", "a-seed1", recipe="theirs")
    for words in ((), ("--dry-run",)):
        refused = command("pull", "a-seed1", "--from", tmp_path / "team", *words)
        assert (refused.code, refused.out) == (2, "")
        assert "exists already" in refused.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fastnet-seed77", "; to train it: zoo train fastnet --seed 77 --data DIR\n"),
        ("fastnet-cifar100-seed7", "; to train it: zoo train fastnet --seed 7 --dataset cifar100 --data DIR\n"),
    ],
)
def test_the_hint_is_for_the_name_that_is_missing(command: Command, name: str, hint: str) -> None:
    assert command("pull", name).err.endswith(hint)
    other = command("pull", name.replace("fastnet", "nosuch"))
    assert other.code == 1
    assert "to train it" not in other.err
