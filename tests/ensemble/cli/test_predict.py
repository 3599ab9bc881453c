"""`ensemble predict`, as a person or a program meets it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ensemble.lockfile import write_lockfile
from zoo.entry import Entry

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]


@pytest.fixture
def pictures(zoo: "Zoo", tmp_path: Path) -> list[Path]:
    """The first six test images as files, in the split's own order."""
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, zoo.split.images[:6], strict=True):
        Image.fromarray(image).save(path)
    return paths


def read(outcome: "Outcome") -> list[dict[str, Any]]:
    assert (outcome.code, outcome.err) == (0, "")
    table: list[dict[str, Any]] = json.loads(outcome.out)
    return table


def wanted_probs(zoo: "Zoo", names: list[str], views: list[str]) -> npt.NDArray[np.float64]:
    """Mean probabilities from the stored logits, rows in the split's own order."""
    powers = [np.exp(zoo.logits(name, view)) for name in names for view in views]
    mean: npt.NDArray[np.float64] = np.mean([p / p.sum(1, keepdims=True) for p in powers], axis=0)
    return mean


def test_json_against_the_stored_logits(zoo: "Zoo", cli: "Cli", pictures: list[Path]) -> None:
    results = read(cli("predict", "--members", "tiny-*", "--tta", "flip", "--json", *pictures))
    names = ["tiny-a", "tiny-b", "tiny-c"]
    probs = wanted_probs(zoo, names, ["none", "flip"])
    for i, (result, path) in enumerate(zip(results, pictures, strict=True)):
        assert list(result) == ["image", "top", "agree", "members"]
        assert result["image"] == str(path)
        assert len(result["top"]) == 3
        stated = [t["prob"] for t in result["top"]]
        assert stated == sorted(stated, reverse=True)
        np.testing.assert_allclose(stated, np.sort(probs[i])[::-1][:3], atol=1e-3)
        for t in result["top"]:
            assert t["prob"] == pytest.approx(probs[i, zoo.split.classes.index(t["class"])], abs=1e-3)
        assert list(result["members"]) == names
        assert result["agree"] == sum(said == result["top"][0]["class"] for said in result["members"].values())
        for name, said in result["members"].items():
            own = wanted_probs(zoo, [name], ["none", "flip"])[i]
            assert own[zoo.split.classes.index(said)] == pytest.approx(own.max(), abs=1e-3)


def test_dissenters_are_named(zoo: "Zoo", cli: "Cli", pictures: list[Path]) -> None:
    del zoo
    words = ["predict", "--members", "tiny-*", *pictures]
    results, lines = read(cli(*words, "--json")), cli(*words).out.splitlines()
    assert len(lines) == len(results) == 6
    for line, result in zip(lines, results, strict=True):
        best = result["top"][0]["class"]
        top = "  ".join(f"{t['class']} {100 * t['prob']:.1f} %" for t in result["top"])
        assert line.startswith(f"{result['image']}: {top}; {result['agree']} of 3 members agree")
        for name, said in result["members"].items():
            assert (f"{name}: {said}" in line) == (said != best)
    assert {result["agree"] for result in results} != {3}  # untrained networks disagree somewhere


def test_unanimity_names_nobody(zoo: "Zoo", cli: "Cli", pictures: list[Path]) -> None:
    del zoo
    (line,) = cli("predict", "--members", "tiny-a", pictures[0]).out.splitlines()
    assert line.endswith("; 1 of 1 members agree")


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (5, 5), (10, 10), (99, 10)])
def test_top(zoo: "Zoo", cli: "Cli", pictures: list[Path], top: int, shown: int) -> None:
    (result,) = read(cli("predict", "--members", "tiny-*", "--json", "--top", top, pictures[0]))
    assert len({t["class"] for t in result["top"]}) == shown
    if shown == 10:
        assert {t["class"] for t in result["top"]} == set(zoo.split.classes)
        assert sum(t["prob"] for t in result["top"]) == pytest.approx(1)


def test_a_tied_vote_puts_the_winner_first(zoo: "Zoo", cli: "Cli", pictures: list[Path]) -> None:
    results = read(cli("predict", "--members", "tiny-*", "--merge", "vote", "--json", "--top", "10", *pictures))
    mean = wanted_probs(zoo, ["tiny-a", "tiny-b", "tiny-c"], ["none"])
    ties = 0
    for i, result in enumerate(results):
        votes = [zoo.split.classes.index(said) for said in result["members"].values()]
        counts = np.bincount(votes, minlength=10)
        first = zoo.split.classes.index(result["top"][0]["class"])
        leaders = np.flatnonzero(counts == counts.max())
        assert first in leaders
        assert mean[i, first] == pytest.approx(mean[i, leaders].max(), abs=1e-3)
        assert [t["prob"] for t in result["top"]] == pytest.approx(sorted(counts / 3, reverse=True))
        assert result["agree"] == counts[first]
        ties += len(leaders) > 1
    assert ties


def test_a_lockfile(zoo: "Zoo", cli: "Cli", pictures: list[Path], tmp_path: Path) -> None:
    write_lockfile(tmp_path / "e.json", zoo.committee("tiny-a,tiny-b=2", "flip"), fitted_on=None, metrics={})
    locked = read(cli("predict", "--ensemble", tmp_path / "e.json", "--json", *pictures))
    assert locked == read(cli("predict", "--members", "tiny-a,tiny-b=2", "--tta", "flip", "--json", *pictures))


def test_without_members_the_shipped_ones_answer_with_flip(
    zoo: "Zoo", cli: "Cli", pictures: list[Path], make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo import places

    monkeypatch.setattr(places, "_PACKAGE", zoo.source.parent)  # so that none is builtin here
    for seed in (1, 2):
        make_entry(zoo.source, f"fastnet-seed{seed}", seed=seed)
    default = read(cli("predict", "--json", *pictures))
    assert list(default[0]["members"]) == ["fastnet-seed1", "fastnet-seed2"]
    named = ["predict", "--members", "fastnet-seed*", "--json", *pictures]
    assert default == read(cli(*named, "--tta", "flip"))
    assert default != read(cli(*named))


def test_progress_is_on_stderr_unless_quiet(
    zoo: "Zoo", cli: "Cli", pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    del zoo
    monkeypatch.setattr("zoo.cli.progress._APART", 0.0)  # seconds between lines
    loud, quiet = (cli("predict", "--members", "tiny-a", *words, *pictures) for words in ([], ["-q"]))
    assert "classifying: 6/6 pictures" in loud.err
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == loud.out


def test_pictures_of_other_sizes_in_one_go(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    large = Image.fromarray(zoo.split.images[0]).resize((320, 320), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    Image.fromarray(zoo.split.images[1]).save(tmp_path / "small.png")
    results = read(cli("predict", "--members", "tiny-a", "--json", tmp_path / "large.png", tmp_path / "small.png"))
    assert [Path(r["image"]).name for r in results] == ["large.png", "small.png"]


def broken(folder: Path) -> dict[str, Path]:
    """Return pictures that cannot be read."""
    paths = {name: folder / f"{name}.png" for name in ("truncated", "text", "empty", "missing", "folder")}
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(paths["truncated"])
    content = paths["truncated"].read_bytes()
    paths["truncated"].write_bytes(content[: len(content) // 2])
    paths["text"].write_text("a cat", encoding="utf-8")
    paths["empty"].touch()
    paths["folder"].mkdir()
    return paths


@pytest.mark.parametrize("case", ["truncated", "text", "empty", "missing", "folder"])
def test_unreadable_pictures(
    zoo: "Zoo", cli: "Cli", pictures: list[Path], tmp_path: Path, case: str, loads: list[str]
) -> None:
    del zoo
    path = broken(tmp_path)[case]
    done = cli("predict", "--members", "tiny-a", *pictures, path)
    assert done.code == 1
    assert str(path) in done.error
    assert done.out == ""
    assert loads == []  # found before any network was loaded


def test_a_huge_picture(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    del zoo
    path = tmp_path / "huge.bmp"
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (12_000).to_bytes(4, "little") + (9_000).to_bytes(4, "little")  # width and height
    path.write_bytes(content)
    done = cli("predict", "--members", "tiny-a", path)
    assert done.code == 1
    assert re.search(r"huge\.bmp has 12000 x 9000 pixels; at most 100,000,000", done.error)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["predict"], 2, "IMAGE"),
        (["predict", "--members", "tinya", "0.png"], 1, "did you mean 'tiny-a'?"),
        (["predict", "--members", "tiny-a=0", "0.png"], 2, "'tiny-a' is 0;"),
        (["predict", "--members", "tiny-a", "--ensemble", "e.json", "0.png"], 2, "leave --members"),
        (["predict", "--members", "tiny-a", "--tta", "flop", "0.png"], 2, "unknown view set 'flop'"),
        (["predict", "--members", "tiny-a", "--merge", "avg", "0.png"], 2, "unknown --merge 'avg'"),
        (["predict", "--members", "tiny-a", "--top", "0", "0.png"], 2, "'--top'"),
        (["predict", "--members", "tiny-a", "--device", "abacus", "0.png"], 2, "--device 'abacus'"),
        (["predict", "--members", "other.npz", "0.png"], 2, "predictions only"),
        (["predict", "--members", "tiny-a,other.npz", "0.png"], 2, "predictions only"),
        (["predict", "--ensemble", "lost.json", "0.png"], 1, "cannot read lost.json"),
        (["predict", ""], 2, "'IMAGE...': nothing is in it"),
        (["predict", "0.png", ""], 2, "'IMAGE...': nothing is in it"),
        (["predict", "--members", "", "0.png"], 2, "'--members': nothing is in it"),
        (["predict", "--ensemble", "", "0.png"], 2, "'--ensemble': nothing is in it"),
        (["predict", "--tta", "", "0.png"], 2, "'--tta': nothing is in it"),
        (["predict", "--merge", "", "0.png"], 2, "'--merge': nothing is in it"),
        (["predict", "--device", "", "0.png"], 2, "'--device': nothing is in it"),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_bad_requests_are_one_line(
    cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", probs=np.ones(1))
    done = cli(*words)
    assert done.code == code
    assert says in done.error
    assert done.out == ""


def test_damaged_weights(
    zoo: "Zoo", cli: "Cli", pictures: list[Path], tear: dict[str, Callable[[Path], object]], loads: list[str]
) -> None:
    tear["bit flipped in the middle"](zoo.source / "tiny-a" / "model.safetensors")
    done = cli("predict", "--members", "tiny-a", pictures[0])
    assert done.code == 1
    assert "model.safetensors is damaged" in done.error
    assert loads == []


def test_members_of_other_classes(
    zoo: "Zoo", cli: "Cli", pictures: list[Path], make_entry: Callable[..., Entry]
) -> None:
    make_entry(zoo.source, "pets", classes=("cat", "dog"))
    done = cli("predict", "--members", "tiny-a,pets", pictures[0])
    assert done.code == 1
    assert "members must have the same classes" in done.error
