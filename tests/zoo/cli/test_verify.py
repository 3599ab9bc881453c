"""`zoo verify`: sums, forms, and stored logits against the network."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from tests.conftest import random_split
from tests.zoo.conftest import (
    Outcome,
    file_entry,
    flip_bit,
    in_part,
    refresh_sums,
    sample_card,
    sample_predictions,
    write_mosaic,
)
from zoo.card import EXTERNAL
from zoo.data import Split, load_split
from zoo.entry import WEIGHTS, Entry
from zoo.importing.external import write_external
from zoo.predictions import Predictions, SplitPredictions

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a-seed1"], ["a-seed1"]),
        (["a-*", "b-seed1"], ["a-seed1", "a-seed2", "b-seed1"]),
        (["--all"], ["a-seed1", "a-seed2", "b-seed1"]),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_sound_entries(command: Command, words: list[str], names: list[str]) -> None:
    wanted = "".join(f"{name}: 3 files match {name}/SHA256SUMS\n" for name in names)
    assert command("verify", *words) == Outcome(0, wanted, "")
    assert command("verify", *words, "-q") == Outcome(0, "", "")


def test_every_damaged_entry_is_named(command: Command, shelf: Path) -> None:
    flip_bit(shelf / "a-seed1" / "model.safetensors", 12)
    (shelf / "b-seed1" / "extra").write_text("")
    shown = command("verify", "--all")
    assert shown.code == 1
    assert shown.out == "a-seed2: 3 files match a-seed2/SHA256SUMS\n"
    lines = shown.err.splitlines()
    assert lines[0].startswith(f"error: a-seed1: {shelf / 'a-seed1' / 'model.safetensors'} is damaged")
    assert lines[1] == f"error: b-seed1: {shelf / 'b-seed1' / 'extra'} is not covered by SHA256SUMS"
    assert len(lines) == 2
    assert command("verify", "--all", "-q") == Outcome(1, "", shown.err)


@pytest.mark.usefixtures("shelf")
def test_from_one_source(command: Command, tmp_path: Path) -> None:
    file_entry(tmp_path / "team", "ours")
    assert command("verify", "--all", "--from", tmp_path / "team").out == "ours: 3 files match ours/SHA256SUMS\n"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 2, "give NAME... or --all"),
        (["a-seed1", "--all"], 2, "give NAME... or --all"),
        (["a-sed1"], 1, "did you mean 'a-seed"),
        (["c-*"], 1, "no entry matches 'c-*'"),
        (["../a-seed1"], 2, "not a valid entry name"),
        (["a-seed1", "--split", "train"], 2, "'train'"),
        (["--all", "--predictions", "--device", "gpu"], 2, "--device 'gpu' cannot be used"),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_errors_are_one_line(command: Command, words: list[str], code: int, line: str) -> None:
    shown = command("verify", *words)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert line in shown.err
    assert shown.err.count("\n") == 1


SPLIT = random_split(40)


@pytest.fixture
def predicted(tmp_path: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Return an entry with logits on 40 images, which lie in `tmp_path / "data"`."""
    write_mosaic(tmp_path / "data", {"test": SPLIT})
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    return make_entry(tmp_path / "shelf", "tiny", splits={"test": SPLIT})


def tamper(entry: Entry, row: int, split: Split = SPLIT) -> None:
    """Change one logit by one, and the sums with it."""
    stored = load(entry.read("predictions.safetensors"))
    stored["test.flip"][row, 3] += 1
    views = {view: stored[f"test.{view}"] for view in ("none", "flip")}
    predictions = Predictions(
        {"test": SplitPredictions(views, stored["test.labels"].astype(np.int64), split.fingerprint)}
    )
    (entry.folder / "predictions.safetensors").write_bytes(predictions.encode())
    refresh_sums(entry.folder)


@pytest.mark.usefixtures("every_line")
def test_predictions(command: Command, predicted: Entry, tmp_path: Path) -> None:
    flags = ("--predictions", "--data", tmp_path / "data", "--device", "cpu")
    shown = command("verify", "tiny", *flags)
    assert shown.code == 0
    assert shown.out.startswith("tiny: 4 files match tiny/SHA256SUMS; stored logits within ")
    assert shown.out.endswith(" of the network's on 40 test images\n")
    assert shown.err.startswith("tiny: 40/40 images, ")
    assert command("verify", "tiny", "-q", *flags) == Outcome(0, "", "")
    tamper(predicted, row=7)
    assert command("verify", "tiny").code == 0, "the sums are good"
    found = command("verify", "tiny", *flags, "-q")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("error: tiny: the stored logits differ by up to 1")
    assert command("verify", "tiny", *flags, "--limit", "7").out.endswith(" on 7 test images\n")
    assert command("verify", "tiny", *flags, "--limit", "8").code == 1
    assert command("verify", "tiny", *flags, "--limit", "10000").code == 1


@pytest.fixture
def mixed(predicted: Entry, tmp_path: Path, zoo_home: Path) -> Entry:
    """Return the one entry that can be compared, beside three that cannot."""
    file_entry(tmp_path / "shelf", "bare")
    (in_part(file_entry(tmp_path / "far", "far", predictions=sample_predictions()), zoo_home).folder / WEIGHTS).unlink()
    card = sample_card("theirs", architecture=EXTERNAL)
    write_external(zoo_home / "entries" / "theirs", card, sample_predictions())
    return predicted


@pytest.mark.parametrize("words", [["--all"], ["*"]])
def test_what_cannot_be_compared_is_passed_over(
    command: Command, mixed: Entry, tmp_path: Path, words: list[str]
) -> None:
    flags = ("--predictions", "--data", tmp_path / "data", "--device", "cpu", "-q")
    assert command("verify", *words, *flags) == Outcome(0, "", "")
    shown = command("verify", *words, *flags[:-1])
    assert (shown.code, shown.err) == (0, "")
    lines = {line.partition(":")[0]: line for line in shown.out.splitlines()}
    assert list(lines) == ["bare", "far", "theirs", "tiny"]
    assert lines["bare"] == "bare: 3 files match bare/SHA256SUMS; logits not compared: there are no stored ones"
    assert lines["far"] == (
        "far: 3 files match far/SHA256SUMS; the weights are not here; logits not compared: `zoo pull far` first"
    )
    assert lines["theirs"] == "theirs: 3 files match theirs/SHA256SUMS; logits not compared: there is no network to run"
    assert "stored logits within " in lines["tiny"]
    assert mixed.name == "tiny"
    for name, why in (
        ("bare", "there are no stored ones"),
        ("far", "`zoo pull far` first"),
        ("theirs", "there is no network to run"),
    ):
        asked = command("verify", name, *flags)
        assert asked == Outcome(1, "", f"error: {name}: its logits cannot be compared: {why}\n"), "it was asked for"


def test_json(command: Command, mixed: Entry, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("error", "difference", "split", "images", "skipped"))

    def found(*words: str | Path) -> tuple[int, dict[str, dict[str, object]]]:
        shown = command("verify", *words, "--json")
        return shown.code, {row["name"]: row for row in json.loads(shown.out)}

    code, rows = found("--all")
    sound = {"ok": True, **nothing}
    assert code == 0
    assert rows["tiny"] == {"name": "tiny", "folder": str(mixed.folder), "state": "whole", "files": 4, **sound}
    assert {name: (row["state"], row["files"]) for name, row in rows.items()} == {
        "bare": ("whole", 3),
        "far": ("predictions only", 3),
        "theirs": ("external", 3),
        "tiny": ("whole", 4),
    }
    flags = ("--predictions", "--data", tmp_path / "data", "--device", "cpu")
    code, rows = found("--all", *flags)
    assert code == 0
    assert [rows[name]["skipped"] for name in ("bare", "far", "theirs", "tiny")] == [
        "there are no stored ones",
        "`zoo pull far` first",
        "there is no network to run",
        None,
    ]
    assert (rows["tiny"]["split"], rows["tiny"]["images"]) == ("test", 40)
    difference = rows["tiny"]["difference"]
    assert isinstance(difference, float)
    assert 0 <= difference < 0.05
    tamper(mixed, row=7)
    code, rows = found("tiny", *flags, "-q")
    assert code == 1
    assert rows["tiny"]["difference"] == pytest.approx(1, abs=0.05)
    assert (rows["tiny"]["ok"], rows["tiny"]["state"]) == (False, "whole")
    flip_bit(mixed.folder / WEIGHTS, 99)
    shown = command("verify", "tiny", "--json")
    (row,) = json.loads(shown.out)
    assert (shown.code, row["ok"], row["state"], row["files"]) == (1, False, None, None)
    assert shown.err == f"error: tiny: {row['error']}\n"


def test_what_the_system_leaves_in_a_folder_is_no_damage(command: Command, shelf: Path) -> None:
    for name in (".DS_Store", "._model.safetensors", ".nfs0001"):
        (shelf / "a-seed1" / name).write_bytes(b"\0\0\0\1Bud1")
    assert command("verify", "a-seed1") == Outcome(0, "a-seed1: 3 files match a-seed1/SHA256SUMS\n", "")
    (shelf / "a-seed1" / "DS_Store").write_bytes(b"")
    assert command("verify", "a-seed1").code == 1


@pytest.mark.usefixtures("predicted")
def test_predictions_that_cannot_be_compared(command: Command, shelf: Path, tmp_path: Path) -> None:
    other = write_mosaic(tmp_path / "other", {"test": random_split(40, seed=1), "train": random_split(100, seed=2)})
    flags = ("--predictions", "--device", "cpu", "-q")
    for words, line in (
        (("tiny", "--data", other), "error: 'tiny' has stored predictions for other test images"),
        (("tiny", "--data", other, "--split", "val"), "error: 'tiny' has no stored predictions for the val split"),
        (("tiny", "--data", tmp_path / "missing"), "error: data folder "),
        (("a-seed1", "--data", other), "error: its logits cannot be compared: there are no stored ones"),
    ):
        shown = command("verify", "--from", shelf, *words, *flags)
        assert (shown.code, shown.out) == (1, "")
        assert shown.err.replace("error: tiny: ", "error: ").replace("error: a-seed1: ", "error: ").startswith(line)
        assert shown.err.count("\n") == 1


def test_predictions_on_a_folder_of_pictures(
    command: Command, tmp_path: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("emu", "cat", "ant")  # a network's order is its own
    for part, images in (("train", 60), ("test", 18)):
        for number, image in enumerate(random_split(images, 3, seed=images, size=40).images):
            below = tmp_path / "pets" / part / names[number % 3]
            below.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(below / f"{number}.png")
    splits = {
        name: load_split("pets", name, tmp_path / "pets", size=(32, 32), classes=names) for name in ("test", "val")
    }
    make_entry(tmp_path / "shelf", "tiny-pets", classes=names, dataset="pets", splits=splits)
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    flags = ("--predictions", "--device", "cpu", "--data", tmp_path / "pets")
    assert command("verify", "tiny-pets", *flags).out.endswith(" of the network's on 18 test images\n")
    assert command("verify", "tiny-pets", *flags, "--split", "val").out.endswith(" on 6 val images\n")
    shown = command("verify", "tiny-pets", *flags[:-2])
    assert shown.err == (
        "error: tiny-pets: unknown dataset 'pets'; there are cifar10, cifar100, and others in a folder: "
        "give --data DIR\n"
    )
    (tmp_path / "pets" / "test" / "cat").rename(tmp_path / "pets" / "test" / "cow")
    shown = command("verify", "tiny-pets", *flags)
    assert shown.code == 1
    assert "/test/cow is none of the classes emu, cat, ant, ... (3)" in shown.err
    assert shown.err.count("\n") == 1
