"""Folders of pictures: every layout, against `hold_out` and torchvision's ImageFolder, and what makes them unfit."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import random_split
from zoo.data import Split, hold_out, load_all, load_split, load_training
from zoo.data.image_folder import is_image_folder
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError

SIZE = 4
NAMES = ("cat", "dog", "emu")


def pictures(images: int, seed: int = 0, classes: tuple[str, ...] = NAMES, size: int = SIZE) -> Split:
    split = random_split(images, classes=len(classes), seed=seed, size=size)
    return Split(split.images, split.labels, classes)


def write(folder: Path, split: Split, suffix: str = "png") -> Path:
    """Write a split as `folder/CLASS/NUMBER.png`; numbers do not sort as the images do."""
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        below = folder / split.classes[label]
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(below / f"{number * 7919 % 1000}.{suffix}", lossless=True)  # a word only WebP knows
    return folder


TRAIN, VAL, TEST = pictures(90), pictures(12, seed=1), pictures(15, seed=2)


def same(one: Split, two: Split) -> bool:
    """Say whether two splits hold the same images, labels and classes, in whatever order."""
    return (one.fingerprint, one.classes, len(one)) == (two.fingerprint, two.classes, len(two))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "PNG"])
def test_train_and_test(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "train", TRAIN, suffix)
    write(tmp_path / "test", TEST, suffix)
    part, val, test = load_all("photos", tmp_path)
    wanted = hold_out(TRAIN)
    assert same(part, wanted[0])
    assert same(val, wanted[1])
    assert same(test, TEST)
    assert len(val) == 9


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_train_val_and_test(tmp_path: Path, name: str) -> None:
    for folder, split in (("train", TRAIN), (name, VAL), ("test", TEST)):
        write(tmp_path / folder, split)
    for found, wanted in zip(load_all("photos", tmp_path), (TRAIN, VAL, TEST), strict=True):
        assert same(found, wanted)


def test_a_validation_image_is_not_trained_on(tmp_path: Path) -> None:
    both = Split(np.concatenate([TRAIN.images, VAL.images[:5]]), np.append(TRAIN.labels, VAL.labels[:5]), NAMES)
    write(tmp_path / "train", both)
    write(tmp_path / "val", VAL)
    write(tmp_path / "test", TEST)
    part, val = load_training("photos", tmp_path)
    assert same(part, TRAIN)
    assert same(val, VAL)


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_test_folder_a_tenth_is_held_out_first(tmp_path: Path, below: str) -> None:
    write(tmp_path / below, TRAIN)
    rest, test = hold_out(TRAIN)
    part, val = hold_out(rest)
    assert [len(part), len(val), len(test)] == [72, 9, 9]
    for found, wanted in zip(load_all("photos", tmp_path), (part, val, test), strict=True):
        assert same(found, wanted)


def test_without_a_test_folder_but_with_a_validation_folder(tmp_path: Path) -> None:
    write(tmp_path / "train", TRAIN)
    write(tmp_path / "val", VAL)
    rest, test = hold_out(TRAIN)
    for found, wanted in zip(load_all("photos", tmp_path), (rest, VAL, test), strict=True):
        assert same(found, wanted)


@pytest.mark.parametrize("layout", [("",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_splits_alone_are_those_of_all(tmp_path: Path, layout: tuple[str, ...]) -> None:
    for folder, split in zip(layout, (TRAIN, VAL, TEST), strict=False):
        write(tmp_path / folder, split)
    part, val, test = load_all("photos", tmp_path)
    alone = load_training("photos", tmp_path)
    for one, two in (
        (part, alone[0]),
        (val, alone[1]),
        (val, load_split("photos", "val", tmp_path)),
        (test, load_split("photos", "test", tmp_path)),
    ):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)
    assert part.order.tolist() == list(range(len(part))), "sorted by hash, however the files are called"


def test_the_order_is_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    write(tmp_path, TEST)
    for name in ("cat/b/x.png", "cat/b-c/x.png", "cat/b/d/x.png", "cat/Z.png", "dog/a.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(1, seed=len(name)).images[0]).save(tmp_path / name)
    (tmp_path / "test").mkdir()
    for name in NAMES:
        (tmp_path / name).rename(tmp_path / "test" / name)
    theirs = ImageFolder(str(tmp_path / "test"))
    ours = load_split("photos", "test", tmp_path)
    assert ours.classes == tuple(theirs.classes)
    assert ours.labels.tolist() == theirs.targets
    np.testing.assert_array_equal(ours.images, [np.asarray(image) for image, _ in theirs])
    assert len(ours) == 20


def test_hidden_names_and_files_beside_classes_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, TRAIN)
    before = load_all("photos", tmp_path)
    for name in ("README.txt", ".DS_Store", "cat/.DS_Store", ".git/x/y.png", "dog/.thumbs/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no picture")
    for one, two in zip(before, load_all("photos", tmp_path), strict=True):
        assert same(one, two)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    split = pictures(60, classes=("bus", "train"))
    write(tmp_path, split)
    assert load_training("trips", tmp_path)[0].classes == ("bus", "train")


def test_a_class_missing_in_test_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "train", TRAIN)
    rows = TEST.labels != 1
    write(tmp_path / "test", TEST.subset(rows))
    (tmp_path / "test" / "dog").mkdir()
    test = load_split("photos", "test", tmp_path)
    assert test.classes == NAMES
    assert same(test, TEST.subset(rows))


def test_test_alone_counts_its_own_classes_or_those_that_are_given(tmp_path: Path) -> None:
    write(tmp_path / "test", TEST.subset(TEST.labels != 0))
    own = load_split("photos", "test", tmp_path)
    assert own.classes == ("dog", "emu")
    assert np.bincount(own.labels).tolist() == [5, 5]
    given = load_split("photos", "test", tmp_path, classes=("emu", "fox", "dog"))
    assert given.classes == ("emu", "fox", "dog")
    assert np.bincount(given.labels).tolist() == [5, 0, 5]
    np.testing.assert_array_equal(given.images, own.images)
    with pytest.raises(NotFoundError, match=r"has no training images \(train/CLASS/\*\.png\)"):
        load_split("photos", "val", tmp_path)


def test_scaled_and_cropped_to_one_size(tmp_path: Path) -> None:
    write(tmp_path / "train", TRAIN)
    write(tmp_path / "test", pictures(15, seed=2, size=7))
    with pytest.raises(DataError, match=r"images have 4 x 4, 4 x 4, 7 x 7 pixels: give --size N"):
        load_all("photos", tmp_path)
    for split in load_all("photos", tmp_path, size=(5, 6)):
        assert split.images.shape[1:] == (5, 6, 3)
    Image.new("RGB", (9, 3)).save(tmp_path / "train" / "cat" / "wide.png")
    with pytest.raises(DataError, match=r"pictures of 2 sizes, from 4 x 4 to 3 x 9 pixels.* give --size N"):
        load_training("photos", tmp_path)


def test_a_folder_below_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos" / "train", TRAIN)
    wanted = load_all("x", tmp_path / "photos")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    for folder in (tmp_path, None):
        for one, two in zip(wanted, load_all("photos", folder), strict=True):
            assert same(one, two)


def test_cifar_as_pictures(tmp_path: Path) -> None:
    """A network of the zoo may be evaluated on anybody's pictures of its classes."""
    names = ("airplane", "ship")
    write(tmp_path / "test", pictures(20, classes=names))
    classes = load_split("cifar10", "test").classes
    split = load_split("cifar10", "test", tmp_path, size=(32, 32), classes=classes)
    assert split.images.shape == (20, 32, 32, 3)
    assert np.bincount(split.labels, minlength=10).tolist() == [10, 0, 0, 0, 0, 0, 0, 0, 10, 0]


def test_pictures_are_not_trained_on_under_a_name_of_cifar(tmp_path: Path) -> None:
    write(tmp_path / "train", pictures(20, classes=("cat", "dog")))
    with pytest.raises(DataError, match="does not have the 10 classes of cifar10: leave --dataset out"):
        load_training("cifar10", tmp_path, size=(32, 32))


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "test", pictures(20, classes=("cat", "dog")))
    (tmp_path / "test" / "cat" / "Thumbs.db").write_bytes(b"no picture")
    assert len(load_split("pets", "test", tmp_path)) == 20


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda root: (root / "train/cat/notes.png").write_text("no picture"),
    "truncated": lambda root: cut(root / "train/cat/0.png"),
    "bomb": lambda root: Image.new("1", (11_000, 11_000)).save(root / "train/cat/0.png"),
    "empty": lambda root: (root / "train/ant").mkdir(),
    "loop": lambda root: link(root / "train/cat/again", root / "train"),
    "a link to itself": lambda root: link(root / "train/cat/a", root / "train/cat/a"),
    "broken link": lambda root: link(root / "train/cat/gone.png", root / "missing.png"),
    "pipe": lambda root: os.mkfifo(root / "train/cat/pipe.png"),
    "name": lambda root: (root / "train/cat").rename(root / "train/ca\nt"),
    "one class": lambda root: [(root / "train" / name).rename(root / name) for name in ("dog", "emu")],
    "two vals": lambda root: [write(root / name, VAL) for name in ("val", "valid")],
    "no train": lambda root: (root / "train").rename(root / "test"),
}
"""What makes a folder with `train/cat`, `dog` and `emu` unfit."""


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("text", CorruptError, r"/train/cat/notes\.png' is not a readable picture"),
        ("truncated", CorruptError, r"/train/cat/0\.png' is not a readable picture"),
        ("bomb", DataError, r"/train/cat/0\.png has 11000 x 11000 pixels; at most 100,000,000 are read"),
        ("empty", DataError, r"/train/ant has no pictures: add some or remove it"),
        ("loop", DataError, r"/train/cat/again is a link to a folder that it lies in: remove it"),
        ("a link to itself", NotFoundError, r"cannot read .*/train/cat.*: Too many levels of symbolic links"),
        ("broken link", DataError, r"/train/cat/gone\.png is neither a file nor a folder: remove it"),
        ("pipe", DataError, r"/train/cat/pipe\.png is neither a file nor a folder: remove it"),
        ("name", DataError, r"/train/ca\\nt' cannot be the name of a class: rename it"),
        ("one class", DataError, r"/train has one class only, 'cat': there must be a sub-folder for each"),
        ("two vals", DataError, r"has both 'val' and 'valid': keep one of them"),
        ("no train", NotFoundError, r"has no training images \(train/CLASS/\*\.png\)"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, how: str, error: type[MenagerieError], message: str) -> None:
    write(tmp_path / "train", TRAIN)
    DAMAGES[how](tmp_path)
    for load in (load_all, load_training):
        with pytest.raises(error, match=message) as caught:
            load("photos", tmp_path)
        assert "\n" not in str(caught.value)


def test_a_class_that_only_test_has(tmp_path: Path) -> None:
    write(tmp_path / "train", TRAIN)
    write(tmp_path / "test", pictures(9, classes=("cat", "dogs", "emu")))
    message = r"/test/dogs is none of the classes cat, dog, emu, \.\.\. \(3\) \(did you mean 'dog'\?\)"
    for load in (lambda: load_all("photos", tmp_path), lambda: load_split("photos", "test", tmp_path)):
        with pytest.raises(DataError, match=message):
            load()
    with pytest.raises(DataError, match=r"/test/cat is none of the classes dog, emu"):
        load_split("photos", "test", tmp_path, classes=("dog", "emu", "dogs"))


def test_no_pictures_at_all(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "dog").mkdir()
    assert is_image_folder(tmp_path)
    with pytest.raises(NotFoundError, match=r"/train has no pictures"):
        load_training("photos", tmp_path)
    for empty in (tmp_path / "train", tmp_path / "train" / "cat", tmp_path / "missing"):
        assert not is_image_folder(empty)


@pytest.mark.parametrize(("below", "images", "what"), [("", 15, "test"), ("train", 15, "test"), ("", 18, "val")])
def test_too_few_to_hold_any_out(tmp_path: Path, below: str, images: int, what: str) -> None:
    write(tmp_path / below, pictures(images))
    left = images if what == "test" else images - 3
    message = rf"{left} pictures are too few to hold a tenth out: add a folder '{what}'"
    with pytest.raises(DataError, match=message):
        load_training("photos", tmp_path)


@pytest.mark.parametrize("layout", ["", "train"])
def test_a_class_that_was_held_out_whole(tmp_path: Path, layout: str) -> None:
    """As happens to pictures that are all the same."""
    images = TRAIN.images.copy()
    images[TRAIN.labels == 2] = 7
    write(tmp_path / layout, Split(images, TRAIN.labels, NAMES))
    if layout:
        write(tmp_path / "test", TEST)
    with pytest.raises(DataError, match=r"all pictures of 'emu' were held out: add others"):
        load_training("photos", tmp_path)
