"""Evaluation on other data than CIFAR-10: a folder of pictures, and a hundred classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ensemble.evaluate import split_source
from ensemble.lockfile import Committee, read_lockfile, write_lockfile
from ensemble.members import parse_members
from tests.conftest import random_split
from tests.ensemble.conftest import write_mosaics
from zoo.data import Split, load_all
from zoo.entry import Entry
from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome

    Cli = Callable[..., Outcome]

PETS = ("cat", "dog", "emu")


def write_pictures(folder: Path, split: Split) -> Path:
    """Write `folder/CLASS/NUMBER.png`, numbers counted down so that the order on disk is another."""
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        below = folder / split.classes[label]
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(below / f"{999 - number}.png")
    return folder


def pets(images: int, seed: int, size: int = 32) -> Split:
    split = random_split(images, classes=3, seed=seed, size=size)
    return Split(split.images, split.labels, PETS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of pictures that are too large for the network."""
    write_pictures(tmp_path / "My Pets" / "train", pets(60, seed=0, size=40))
    write_pictures(tmp_path / "My Pets" / "test", pets(18, seed=1, size=40))
    return tmp_path / "My Pets"


@pytest.fixture
def shelf(tmp_path: Path, data: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source of `a` and `b`, which know the pictures at 32 x 32."""
    _, val, test = load_all("my-pets", data, size=(32, 32))
    for seed, name in enumerate("ab"):
        make_entry(
            tmp_path / "shelf", name, classes=PETS, dataset="my-pets", splits={"val": val, "test": test}, seed=seed
        )
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def read(done: "Outcome") -> dict[str, Any]:
    assert done.code == 0, done.err
    table: dict[str, Any] = json.loads(done.out)
    return table


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(("split", "images"), [("test", 18), ("val", 6)])
def test_stored_and_fresh_agree_on_a_folder(cli: "Cli", data: Path, split: str, images: int) -> None:
    words = ("eval", "--members", "a,b=2", "--tta", "flip", "--split", split, "--json", "-")
    alone = read(cli(*words))
    checked = read(cli(*words, "--data", data))
    fresh = read(cli(*words, "--data", data, "--fresh", "--device", "cpu"))
    for report in (alone, checked, fresh):
        assert (report["dataset"], report["images"]) == ("my-pets", images)
    assert {**checked, "seconds": 0} == {**alone, "seconds": 0}
    assert fresh["ensemble"]["nll"] == pytest.approx(alone["ensemble"]["nll"], abs=1e-3)
    assert fresh["ensemble"]["brier"] == pytest.approx(alone["ensemble"]["brier"], abs=1e-3)


@pytest.mark.usefixtures("shelf")
def test_other_pictures_need_fresh(cli: "Cli", tmp_path: Path) -> None:
    other = write_pictures(tmp_path / "other" / "test", pets(12, seed=5, size=33)).parent
    done = cli("eval", "--members", "a,b", "--data", other)
    assert done.code == 1
    assert "'a' has stored predictions for other test images" in done.error
    assert done.error.endswith("only `ensemble eval --fresh` runs its network")
    report = read(cli("eval", "--members", "a,b", "--data", other, "--fresh", "--device", "cpu", "--json", "-"))
    assert report["images"] == 12
    assert report["ensemble"]["accuracy"] * 12 == pytest.approx(round(report["ensemble"]["accuracy"] * 12))


@pytest.mark.usefixtures("shelf")
def test_classes_that_the_members_do_not_have(cli: "Cli", tmp_path: Path) -> None:
    split = pets(12, seed=5)
    write_pictures(tmp_path / "birds" / "test", Split(split.images, split.labels, ("cat", "dig", "emu")))
    for words in (["--fresh", "--device", "cpu"], []):
        done = cli("eval", "--members", "a", "--data", tmp_path / "birds", *words)
        assert done.code == 1
        assert "/test/dig is none of the classes cat, dog, emu, ... (3) (did you mean 'dog'?)" in done.error


@pytest.mark.usefixtures("shelf")
def test_a_network_needs_no_picture_of_each_of_its_classes(cli: "Cli", tmp_path: Path) -> None:
    split = pets(12, seed=5)
    write_pictures(tmp_path / "emus" / "test", split.subset(split.labels == 2))
    words = ("--data", tmp_path / "emus", "--fresh", "--device", "cpu", "--json", "-")
    assert read(cli("eval", "--members", "a", *words))["images"] == 4


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--members", "a", "--size", "40"], "--size 40: 'a' takes 32 x 32 pixels; leave --size out"),
        (["--members", "a", "--size", "0"], "--size"),
        (["--members", "a", "--dataset", "cifar10"], "--dataset 'cifar10': 'a' classifies my-pets"),
    ],
)
def test_what_the_members_know_better(cli: "Cli", words: list[str], says: str) -> None:
    done = cli("eval", *words)
    assert done.code == 2
    assert says in done.error


def test_prediction_files_of_pictures_of_many_sizes(cli: "Cli", tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    write_pictures(tmp_path / "pets" / "test", pets(18, seed=1))
    Image.new("RGB", (50, 20)).save(tmp_path / "pets" / "test" / "cat" / "wide.png")
    labels = np.array(ImageFolder(str(tmp_path / "pets" / "test")).targets)
    logits = np.eye(3, dtype=np.float32)[labels]
    logits[:4] = np.roll(logits[:4], 1, axis=1)
    np.savez(tmp_path / "theirs.npz", logits=logits, labels=labels)
    words = ("eval", "--members", tmp_path / "theirs.npz", "--data", tmp_path / "pets", "--json", "-")
    assert "pictures of 2 sizes, from 20 x 50 to 32 x 32 pixels" in cli(*words).error
    report = read(cli(*words, "--size", "8"))
    assert (report["dataset"], report["images"]) == ("pets", 19)
    assert report["ensemble"]["accuracy"] == pytest.approx(15 / 19)


def test_the_source_of_a_committee(shelf: Path, data: Path) -> None:
    members = parse_members("a,b")
    source = split_source(members, "test", data)
    assert (source.dataset, source.size, source.classes) == ("my-pets", (32, 32), PETS)
    assert source.split.fingerprint == Entry("a", shelf / "a", "").predictions().splits["test"].fingerprint
    assert split_source(members, "test", size=(32, 32)).folder is None
    with pytest.raises(UsageError, match="--size 16"):
        split_source(members, "test", data, size=(16, 16))
    nobody = split_source((), "val", data, size=(8, 8))
    assert (nobody.dataset, nobody.size, nobody.classes) == ("my-pets", (8, 8), None)
    assert split_source((), "test", data, dataset="x").dataset == "x"
    assert split_source((), "test").dataset == "cifar10"


def test_predict_with_classes_of_ones_own(cli: "Cli", shelf: Path, data: Path) -> None:
    del shelf
    paths = sorted((data / "test" / "cat").iterdir())[:2]
    done = cli("predict", "--members", "a,b", "--device", "cpu", "--json", *paths)
    assert done.code == 0, done.err
    for result in json.loads(done.out):
        assert {t["class"] for t in result["top"]} == set(PETS)
        assert sum(t["prob"] for t in result["top"]) == pytest.approx(1, abs=1e-5)


@pytest.fixture
def hundred(tmp_path: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mosaic folder of a hundred classes, and entries `c-cifar100-seed1` and `-seed2` for it."""
    names = tuple(f"class{i}" for i in range(100))
    train, test = random_split(1000, 100, seed=3), random_split(200, 100, seed=4)
    write_mosaics(tmp_path / "cifar100", {"train-1": train, "test": test}, names)
    _, val, _ = load_all("cifar100", tmp_path / "cifar100")
    for seed in (1, 2):
        make_entry(
            tmp_path / "source",
            f"c-cifar100-seed{seed}",
            classes=names,
            dataset="cifar100",
            splits={"val": val, "test": test},
            seed=seed,
        )
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "source"))
    return tmp_path / "cifar100"


@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_a_hundred_classes(cli: "Cli", hundred: Path, tmp_path: Path, merge: str) -> None:
    committee = Committee(tuple(parse_members("c-cifar100-*")), "flip", "probs")
    write_lockfile(tmp_path / "e.json", committee, fitted_on=None, metrics={})
    assert len(json.loads((tmp_path / "e.json").read_text())["classes"]) == 100
    assert len(read_lockfile(tmp_path / "e.json").members) == 2
    words = ("eval", "--members", "c-cifar100-*", "--tta", "flip", "--merge", merge, "--json", "-")
    stored = read(cli(*words))
    fresh = read(cli(*words, "--fresh", "--device", "cpu", "--data", hundred))
    for report in (stored, fresh):
        assert (report["dataset"], report["images"]) == ("cifar100", 200)
    assert fresh["ensemble"]["brier"] == pytest.approx(stored["ensemble"]["brier"], abs=1e-2)
    if merge != "vote":
        assert fresh["ensemble"]["nll"] == pytest.approx(stored["ensemble"]["nll"], abs=1e-3)
        assert stored["ensemble"]["nll"] == pytest.approx(np.log(100), abs=0.5), "untrained networks know nothing"
        assert read(cli("eval", "--ensemble", tmp_path / "e.json", "--json", "-"))["images"] == 200


def test_a_file_beside_entries_of_a_hundred_classes(cli: "Cli", hundred: Path, tmp_path: Path) -> None:
    labels = random_split(200, 100, seed=4).labels
    probs = np.full((200, 100), 0.1 / 99, np.float16)
    probs[np.arange(200), labels] = 0.9
    np.savez(tmp_path / "x.npz", probs=probs, labels=labels)
    members = f"c-cifar100-seed1,{tmp_path / 'x.npz'}=9"
    report = read(cli("eval", "--members", members, "--data", hundred, "--json", "-"))
    assert report["ensemble"]["accuracy"] == 1
    assert report["members"][1]["nll"] == pytest.approx(-np.log(0.9), abs=1e-3)


def test_ten_and_a_hundred_do_not_mix(
    cli: "Cli", hundred: Path, tmp_path: Path, make_entry: Callable[..., Entry]
) -> None:
    make_entry(tmp_path / "source", "ten")
    done = cli("eval", "--members", "ten,c-cifar100-seed1")
    assert "'ten' has 10 of cifar10" in done.error
    assert "'c-cifar100-seed1' has 100 of cifar100" in done.error
    with pytest.raises(DataError, match="has 100 classes, cifar10 has 10: this is another dataset"):
        _ = split_source(parse_members("ten"), "test", hundred).split
