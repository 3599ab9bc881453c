"""Where a dataset is looked for, and CIFAR-10's test split as it ships."""

import hashlib
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CLASSES, random_split
from tests.zoo.conftest import write_mosaic
from zoo.data import (
    DATASETS,
    MEAN_STD,
    SPLITS,
    Split,
    dataset,
    dataset_name,
    hold_out,
    load_all,
    load_split,
    load_training,
)
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError, UsageError
from zoo.names import is_name

CIFAR10_TEST = "7c136c2a0ca97f3a3a90290654794b7fc701b5c8f869b263d9d29dc8c4a6ee60"


def equal(one: Split, two: Split) -> bool:
    return np.array_equal(one.images, two.images) and np.array_equal(one.labels, two.labels)


@pytest.fixture
def nothing_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_SHIPPED", tmp_path / "nothing")


def test_the_tables() -> None:
    assert DATASETS == tuple(MEAN_STD) == ("cifar10", "cifar100")
    assert SPLITS == ("test", "val")


def test_cifar10_ships_its_test_split() -> None:
    split = load_split("cifar10", "test")
    assert split.images.shape == (10_000, 32, 32, 3)
    assert split.classes == CLASSES
    assert np.bincount(split.labels).tolist() == [1000] * 10
    assert split.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # as torchvision has them
    assert split.fingerprint == CIFAR10_TEST
    # Close to the training images' statistics, which the table has.
    mean, std = MEAN_STD["cifar10"]
    pixels = split.images.reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(0) / 255, mean, atol=0.005)
    np.testing.assert_allclose(pixels[::7].std(0) / 255, std, atol=0.005)
    part, val = hold_out(split)
    assert len(part) + len(val) == len(split)
    assert np.bincount(val.labels).tolist() == [100] * 10


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar10", "train", "unknown split 'train'; there are test, val"),
        ("cifar01", "test", "unknown dataset 'cifar01'.*did you mean 'cifar10'.*cifar10, cifar100"),
        ("../cifar10", "val", "unknown dataset"),
    ],
)
def test_unknown_words(name: str, split: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_split(name, split)


def test_what_does_not_ship() -> None:
    for load in (
        lambda: load_split("cifar100", "test"),
        lambda: load_split("cifar10", "val"),
        lambda: load_training("cifar10"),
    ):
        with pytest.raises(NotFoundError, match="do not ship with this package: give --data DIR, or set ZOO_DATA"):
            load()


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_a_named_folder(tmp_path: Path, below: str) -> None:
    test, train = random_split(20, size=2), random_split(110, size=2, seed=1)
    write_mosaic(tmp_path / below, {"test": test, "train": train})
    assert equal(load_split("cifar10", "test", tmp_path), test)
    part, val = hold_out(train)
    assert equal(load_split("cifar10", "val", tmp_path), val)
    found = load_training("cifar10", tmp_path)
    assert equal(found[0], part.subset(part.order))
    assert equal(found[1], val)
    assert len(val) == 10
    together = load_all("cifar10", tmp_path)
    assert all(equal(one, two) for one, two in zip(together, (*found, test), strict=True))


def test_what_is_trained_on_does_not_depend_on_the_order_on_disk(tmp_path: Path) -> None:
    train = random_split(120, size=2)
    shuffled = train.subset(np.random.default_rng(0).permutation(120))
    write_mosaic(tmp_path / "one", {"train": train})
    write_mosaic(tmp_path / "two", {"train-1": shuffled.subset(slice(50)), "train-2": shuffled.subset(slice(50, 120))})
    one, two = (load_training("cifar10", tmp_path / name)[0] for name in ("one", "two"))
    assert equal(one, two)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in one.images]
    assert digests == sorted(digests)


def test_parts_are_joined(tmp_path: Path) -> None:
    train = random_split(300, size=2)
    parts = {f"train-{i + 1}": train.subset(slice(100 * i, 100 * i + 100)) for i in range(3)}
    write_mosaic(
        tmp_path, {"test": random_split(5, size=2, seed=9), **parts, "training": random_split(4, size=2, seed=8)}
    )
    part, val = load_training("cifar10", tmp_path)
    assert len(part) + len(val) == 300
    wanted = hold_out(train)
    assert (part.fingerprint, val.fingerprint) == (wanted[0].fingerprint, wanted[1].fingerprint)


def test_parts_of_different_sizes(tmp_path: Path) -> None:
    write_mosaic(tmp_path, {"test-1": random_split(10, size=2), "test-2": random_split(10, size=3)})
    with pytest.raises(CorruptError, match="the test mosaics hold images of different sizes"):
        load_split("cifar10", "test", tmp_path)


def test_folders_without_the_data(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"data folder '.*missing' does not exist"):
        load_split("cifar10", "test", tmp_path / "missing")
    with pytest.raises(
        NotFoundError,
        match=r"no cifar10 in .*: neither a mosaic \(index.json\), torchvision's files nor train/CLASS/\*\.png",
    ):
        load_split("cifar10", "test", tmp_path)
    with pytest.raises(NotFoundError, match=r"no photos in .*: neither a mosaic .* nor train/CLASS/\*\.png"):
        load_split("photos", "test", tmp_path)
    with pytest.raises(NotFoundError, match=r"data folder '.*missing' does not exist"):
        load_training("photos", tmp_path / "missing")
    write_mosaic(tmp_path, {"test": random_split(5, size=2)})
    with pytest.raises(NotFoundError, match=r"index\.json lists no train images"):
        load_training("cifar10", tmp_path)


def test_a_hundred_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = random_split(1000, classes=100, size=2), random_split(200, classes=100, size=2, seed=1)
    write_mosaic(tmp_path / "data" / "cifar100", {"train": train, "test": test})
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    for folder in (tmp_path / "data", tmp_path / "data" / "cifar100", None):
        part, val, found = load_all("cifar100", folder)
        assert np.bincount(val.labels).tolist() == [1] * 100
        assert len(part) == 900
        assert equal(found, test)
        assert equal(load_split("cifar100", "val", folder), val)


def test_the_wrong_one_of_the_two(tmp_path: Path) -> None:
    for name, classes, other in (("a", 100, "cifar10"), ("b", 10, "cifar100")):
        write_mosaic(tmp_path / name, {"test": random_split(200, classes, size=2)})
        with pytest.raises(DataError, match=f"has {classes} classes, {other} has .*another dataset"):
            load_split(other, "test", tmp_path / name)


def test_a_mosaic_of_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(30, classes=3, size=2)
    write_mosaic(tmp_path / "pets", {"test": split})
    assert equal(load_split("pets", "test", tmp_path / "pets"), split)
    with pytest.raises(UsageError, match=r"unknown dataset 'pets'; .*give --data DIR"):
        load_split("pets", "test")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert equal(load_split("pets", "test"), split)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "pets"))
    for name in ("../pets", "pets"):  # no name leads out of the folder, and it is not the folder's own
        with pytest.raises(UsageError, match="unknown dataset"):
            load_split(name, "test")


def test_mosaics_are_not_scaled(tmp_path: Path) -> None:
    write_mosaic(tmp_path, {"test": random_split(10, size=2), "train": random_split(100, size=3)})
    assert len(load_split("cifar10", "test", tmp_path, size=(2, 2))) == 10
    with pytest.raises(DataError, match="has images of 2 x 2 pixels, not 4 x 4: only pictures in folders are scaled"):
        load_split("cifar10", "test", tmp_path, size=(4, 4))
    with pytest.raises(DataError, match="has images of 3 x 3 pixels, not 4 x 4"):
        load_training("cifar10", tmp_path, size=(4, 4))
    with pytest.raises(DataError, match="training, validation and test images have 3 x 3, 3 x 3, 2 x 2 pixels"):
        load_all("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("{}", "cifar10"),
        ("a/cat/1.png", "a"),
        ("My Photos (2024)/train/cat/1.txt", "my-photos-2024"),
        ("Köln_Straßen/test/cat/1.jpg", "koln_straen"),
        ("猫/cat/1.JPEG", "images"),
        ("..a../cat/1.webp", "a"),
        ("x/cat/1.txt", "cifar10"),
        ("x/cat/dog/1.png", "cifar10"),
        ("x/cifar-100-python/train", "cifar100"),
        ("x/cifar-10-batches-py/test_batch", "cifar10"),
    ],
)
def test_what_data_is_called(tmp_path: Path, made: str, named: str) -> None:
    path = tmp_path / made
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    name = dataset_name(tmp_path / made.partition("/")[0])
    assert name == named
    assert is_name(name)


def test_what_mosaics_are_called(tmp_path: Path) -> None:
    for folder, classes, named in (("a", 10, "cifar10"), ("b", 100, "cifar100"), ("Three", 3, "three")):
        write_mosaic(tmp_path / folder, {"test": random_split(100, classes, size=2)})
        assert dataset_name(tmp_path / folder) == named
    write_mosaic(tmp_path / "cifar100", {"test": random_split(100, 100, size=2)})
    assert dataset_name(tmp_path) == "cifar100"
    assert dataset_name(None) == dataset_name(tmp_path / "missing") == "cifar10"


@pytest.mark.usefixtures("nothing_ships")
@pytest.mark.parametrize("below", ["", "cifar10"])
def test_zoo_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    split = random_split(12, size=2)
    write_mosaic(tmp_path / "data" / below, {"test": split})
    with pytest.raises(NotFoundError, match="set ZOO_DATA"):
        load_split("cifar10", "test")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    assert equal(load_split("cifar10", "test"), split)


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Split]:
    """Write what torchvision expects below `tmp_path`: pickled batches of planes, whose MD5 sums it knows."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    splits = {"train": random_split(40), "test": random_split(10, seed=1)}

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]  # noqa: S324  # torchvision's choice

    for part, split in splits.items():
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
        listed = [write(f"{part}_batch", {"data": planes, "labels": split.labels.tolist()})]
        monkeypatch.setattr(CIFAR10, f"{part}_list", listed)
    name, digest = write("batches.meta", {"label_names": list(CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return splits


@pytest.mark.usefixtures("nothing_ships")
def test_torchvisions_files(tmp_path: Path, batches: dict[str, Split], monkeypatch: pytest.MonkeyPatch) -> None:
    test = load_split("cifar10", "test", tmp_path)
    assert equal(test, batches["test"])
    assert test.classes == CLASSES
    assert equal(load_split("cifar10", "val", tmp_path), hold_out(batches["train"])[1])
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert equal(load_split("cifar10", "test"), batches["test"])
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NotFoundError, match="no cifar10 in"):
        load_split("cifar10", "test", tmp_path)


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(request: urllib.request.Request, *_args: object, **_kwargs: object) -> None:
        asked.append(request.full_url)
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    with pytest.raises(MenagerieError, match=r"cannot download cifar100 to .*no route to host"):
        load_split("cifar100", "test")
    assert asked
    assert all("cifar-100-python" in url for url in asked)
    asked.clear()
    with pytest.raises(NotFoundError, match="no cifar100 in"):
        load_split("cifar100", "test", tmp_path)
    assert not asked, "a folder that the user names is only read"
