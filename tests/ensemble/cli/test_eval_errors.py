"""What `ensemble eval` refuses, each with one line, and that nothing is left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.lockfile import write_lockfile
from tests.conftest import files_up_to
from zoo.entry import Entry

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "give --members"),
        (["--members", "tinya"], 1, "did you mean 'tiny-a'?"),
        (["--members", "qqqqqq"], 1, "no entry 'qqqqqq'"),
        (["--members", "qqq*"], 1, "no entry matches 'qqq*'"),
        (["--members", "lost.npz"], 1, "'lost.npz' does not exist"),
        (["--members", "../tiny-a"], 2, "not a valid entry name: '../tiny-a'"),
        (["--members", "tiny/a"], 2, "not a valid entry name: 'tiny/a'"),
        (["--members", "tiny-a=0"], 2, "'tiny-a' is 0;"),
        (["--members", "tiny-a=-2"], 2, "'tiny-a' is -2;"),
        (["--members", "tiny-a=nan"], 2, "'tiny-a' is nan;"),
        (["--members", "tiny-a=0,tiny-b=0"], 2, "finite number above 0"),
        (["--members", "tiny-a=x"], 2, "'x', not a number"),
        (["--members", "tiny-a,tiny-a"], 2, "named twice"),
        (["--members", "tiny-a", "--tta", "flips"], 2, "did you mean 'flip'?"),
        (["--members", "tiny-a", "--merge", "avg"], 2, "unknown --merge 'avg'"),
        (["--members", "tiny-a", "--split", "train"], 2, "'--split': 'train' is not one of 'test', 'val'"),
        (["--members", "tiny-a", "--limit", "5"], 2, "--limit goes with --fresh"),
        (["--members", "tiny-a", "--fresh", "--limit", "0"], 2, "'--limit'"),
        (["--members", "tiny-a", "--fresh", "--limit", "-1"], 2, "'--limit'"),
        (["--members", "tiny-a", "--fresh", "--limit", "all"], 2, "'--limit'"),
        (["--members", "tiny-a", "--precision", "fp8"], 2, "'--precision'"),
        (["--members", "tiny-a", "--precision", "bf16"], 2, "--precision goes with --fresh"),
        (["--members", "tiny-a", "--device", "cpu"], 2, "--device goes with --fresh"),
        (["--members", "tiny-a", "--fresh", "--device", "abacus"], 2, "--device 'abacus'"),
        (["--members", "tiny-a", "--ensemble", "e.json"], 2, "leave --members, --tta and --merge out"),
        (["--ensemble", "e.json", "--tta", "flip"], 2, "leave --members, --tta and --merge out"),
        (["--ensemble", "e.json"], 1, "cannot read e.json"),
        (["--members", "tiny-a", "--data", "nowhere"], 1, "'nowhere' does not exist"),
        (["--members", "tiny-a", "--json", "no/such/x.json"], 2, "is not a file in an existing folder"),
        (["--members", "tiny-a", "--tta", "crops5"], 1, "view 'shift-2-2' of --tta crops5: run `ensemble eval --mem"),
        (["--members", ""], 2, "'--members': nothing is in it"),
        (["--ensemble", ""], 2, "'--ensemble': nothing is in it"),
        (["--members", "tiny-a", "--tta", ""], 2, "'--tta': nothing is in it"),
        (["--members", "tiny-a", "--merge", " "], 2, "'--merge': nothing is in it"),
        (["--members", "tiny-a", "--data", ""], 2, "'--data': nothing is in it"),
        (["--members", "tiny-a", "--dataset", ""], 2, "'--dataset': nothing is in it"),
        (["--members", "tiny-a", "--fresh", "--device", ""], 2, "'--device': nothing is in it"),
        (["--members", "tiny-a", "--json", ""], 2, "'--json': nothing is in it"),
        (["--members", "tiny-a", "tiny-b"], 2, "tiny-b"),
        (["--member", "tiny-a"], 2, "--member"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(
    zoo: "Zoo",
    cli: "Cli",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    says: str,
) -> None:
    del zoo
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = cli("eval", *(words if "--json" in words else ["--json", "x.json", *words]))
    assert done.code == code
    assert says in done.error
    assert done.out == ""
    assert list(Path().iterdir()) == []


def test_unknown_command(cli: "Cli") -> None:
    done = cli("evla")
    assert done.code == 2
    assert "did you mean 'eval'?" in done.error


@pytest.mark.parametrize(("file", "fresh"), [("model.safetensors", True), ("predictions.safetensors", False)])
@pytest.mark.parametrize("how", ["bit flipped in the middle", "cut in half", "missing"])
def test_damaged_entries(
    zoo: "Zoo",
    cli: "Cli",
    tmp_path: Path,
    file: str,
    fresh: bool,
    how: str,
    tear: dict[str, Callable[[Path], object]],
    loads: list[str],
) -> None:
    tear[how](zoo.source / "tiny-a" / file)
    words = ["--fresh", "--device", "cpu"] if fresh else []
    done = cli("eval", "--members", "tiny-a", "--data", zoo.data, "--json", tmp_path / "x.json", *words)
    assert done.code == 1
    assert f"tiny-a/{file}" in done.error
    assert done.out == ""
    assert not (tmp_path / "x.json").exists()
    assert loads == []


@pytest.mark.parametrize("file", ["config.json", "SHA256SUMS"])
def test_damaged_cards_and_sums(
    zoo: "Zoo", cli: "Cli", file: str, tear: dict[str, Callable[[Path], object]], loads: list[str]
) -> None:
    tear["cut in half"](zoo.source / "tiny-a" / file)
    done = cli("eval", "--members", "tiny-a")
    assert done.code == 1
    assert "tiny-a" in done.error
    assert loads == []


def test_members_of_other_classes(zoo: "Zoo", cli: "Cli", make_entry: Callable[..., Entry]) -> None:
    make_entry(zoo.source, "pets", classes=("cat", "dog"))
    done = cli("eval", "--members", "tiny-a,pets")
    assert done.code == 1
    assert "members must have the same classes" in done.error


def test_a_lockfile_of_other_weights(zoo: "Zoo", cli: "Cli", tmp_path: Path, reseal: Callable[[Path], None]) -> None:
    write_lockfile(tmp_path / "e.json", zoo.committee("tiny-a,tiny-b"), fitted_on=None, metrics={})
    shutil.copy(zoo.source / "tiny-c" / "model.safetensors", zoo.source / "tiny-b" / "model.safetensors")
    reseal(zoo.source / "tiny-b")
    done = cli("eval", "--ensemble", tmp_path / "e.json")
    assert done.code == 1
    assert "other weights of 'tiny-b'" in done.error


def test_a_prediction_file_of_other_images(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    labels = (zoo.split.labels + 1) % 10
    np.savez(tmp_path / "x.npz", logits=zoo.logits("tiny-a"), labels=labels)
    done = cli("eval", "--members", f"tiny-a,{tmp_path / 'x.npz'}", "--data", zoo.data)
    assert done.code == 1
    assert "60 of 60 labels differ" in done.error


@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_full_disk_leaves_the_file_as_it_was(zoo: "Zoo", cli: "Cli", tmp_path: Path, before: str | None) -> None:
    del zoo
    folder = tmp_path / "results"
    folder.mkdir()
    if before is not None:
        (folder / "x.json").write_text(before, encoding="utf-8")
    with files_up_to(100):
        done = cli("eval", "--members", "tiny-*", "--json", folder / "x.json")
    assert done.code == 1
    assert f"cannot write {folder / 'x.json'}: File too large" in done.error
    if before is None:
        assert list(folder.iterdir()) == []
    else:
        assert [p.read_text(encoding="utf-8") for p in folder.iterdir()] == [before]


def test_json_to_a_folder(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    del zoo
    (tmp_path / "x.json").mkdir()
    before = sorted(tmp_path.iterdir())
    done = cli("eval", "--members", "tiny-a", "--json", tmp_path / "x.json")
    assert done.code == 2
    assert "is not a file in an existing folder" in done.error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("word", ["e.json", "../here/e.json", "link.json", "b.npz"])
def test_what_is_read_is_not_overwritten(
    zoo: "Zoo", cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_lockfile(Path("e.json"), zoo.committee("tiny-a,tiny-b"), fitted_on=None, metrics={})
    Path("link.json").symlink_to("e.json")
    np.savez("b.npz", logits=zoo.logits("tiny-b"), labels=zoo.split.labels)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    words = ["--members", "tiny-a,b.npz"] if word == "b.npz" else ["--ensemble", "e.json"]
    done = cli("eval", *words, "--data", zoo.data, "--json", word)
    assert (done.code, done.out) == (2, "")
    assert done.error == f"--json {word!r} would overwrite what is read: give another file"
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
