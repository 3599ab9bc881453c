"""Folders of pictures, a sub-folder a class, as splits: what torchvision calls an ImageFolder.

    DIR/train/CLASS/*   DIR/val/CLASS/*   DIR/test/CLASS/*       or       DIR/CLASS/*

Every file in a class's folder, or anywhere below it, is a picture of that class; names that start with a dot are
skipped. The classes are the sorted names of the training folders. **What has no folder is held out of the training
images**: a tenth of each class as `test`, then a tenth of the rest as `val`, by the hash of the pixels, as in
`hold_out`. `DIR/CLASS/*` is training images alone. `val` may also be called `valid` or `validation`. Within a split,
images are in torchvision's order: by class, then by folder and name.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.data.pictures import read_pictures
from zoo.data.split import Split, hold_out
from zoo.errors import DataError, NotFoundError
from zoo.names import suggestion

__all__ = ["LAYOUT", "class_names", "is_image_folder", "read_all", "read_split", "read_training"]

LAYOUT = "train/CLASS/*.png"
"""An example of the layout, for messages."""

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of pictures. Other files (`Thumbs.db`, notes) are passed over, as torchvision does."""

Size = tuple[int, int]


def is_image_folder(folder: Path) -> bool:
    """Say whether a folder has one of the layouts above; the pictures themselves are not looked at."""
    return bool(_parts(folder))


def class_names(folder: Path) -> list[str]:
    """Return the names of the classes of a folder of pictures, sorted; errors as in `read_split`."""
    parts = _parts(folder)
    return _class_names(parts.get("train", next(iter(parts.values()))))


def read_split(folder: Path, split: str, size: Size | None = None, classes: Sequence[str] | None = None) -> Split:
    """Read the `test` or `val` split of a folder of pictures, in the order of class and path.

    Args:
        folder: in one of the layouts above.
        split: `test` or `val`.
        size: (height, width) that pictures are scaled and cropped to; without it, they must all have the same.
        classes: names that the labels shall count, such as those of a network; by default the folder's own.

    Raises:
        NotFoundError: the folder has neither such images nor training images to hold them out of.
        DataError: a class that is none of `classes` or of the training images; too few classes or images; pictures
            of several sizes.
        CorruptError: a file that is not a picture.
    """
    parts = _parts(folder)
    if split in parts:
        return _read(parts[split], classes or _class_names(parts.get("train", parts[split])), size)
    if split == "val":
        return read_training(folder, size, classes)[1]
    return _hold_out(_read_train(folder, parts, size, classes), "test", folder)[1]


def read_training(folder: Path, size: Size | None = None, classes: Sequence[str] | None = None) -> tuple[Split, Split]:
    """Read the training images of a folder of pictures as (training part, validation part).

    A training image that lies in the validation folder too, bit for bit, is not trained on.

    Args:
        folder: in one of the layouts above.
        size: as in `read_split`.
        classes: as in `read_split`.

    Raises:
        NotFoundError: there are no training images.
        DataError: a class has none, or none is left after the splits were held out; or as in `read_split`.
        CorruptError: a file that is not a picture.
    """
    parts = _parts(folder)
    part, val, _ = _divide(_read_train(folder, parts, size, classes), parts, folder, size)
    return part, val


def read_all(folder: Path, size: Size | None = None) -> tuple[Split, Split, Split]:
    """Read a folder of pictures as (training part, validation part, test split), each file once.

    Arguments and errors are those of `read_training`.
    """
    parts = _parts(folder)
    part, val, test = _divide(_read_train(folder, parts, size, None), parts, folder, size)
    return part, val, _read(parts["test"], part.classes, size) if test is None else test


def _parts(folder: Path) -> dict[str, Path]:
    """Return part -> folder for those that are there; empty if this is no folder of pictures."""
    found = {}
    for part, names in _FOLDERS.items():
        # A folder without sub-folders is no part, but may be a class that has this name.
        there = [folder / name for name in names if (folder / name).is_dir() and _folders(folder / name)]
        if len(there) > 1:
            raise DataError(f"{folder} has both {there[0].name!r} and {there[1].name!r}: keep one of them")
        if there:
            found[part] = there[0]
    if not found and folder.is_dir() and any(_has_picture(below) for below in _folders(folder)):
        found["train"] = folder
    return found


def _read_train(folder: Path, parts: dict[str, Path], size: Size | None, classes: Sequence[str] | None) -> Split:
    """Read all training images; of the folder's own classes, each must have some."""
    if "train" not in parts:
        raise NotFoundError(f"{folder} has no training images ({LAYOUT})")
    split = _read(parts["train"], classes or _class_names(parts["train"]), size)
    missing = set(range(len(split.classes))) - set(split.labels.tolist())
    if classes is None and missing:
        raise DataError(f"{parts['train'] / split.classes[min(missing)]} has no pictures: add some or remove it")
    return split


def _divide(train: Split, parts: dict[str, Path], folder: Path, size: Size | None) -> tuple[Split, Split, Split | None]:
    """Divide training images into the part to train on, the validation part, and `test` if that has no folder."""
    before, test = set(train.labels.tolist()), None
    if "test" not in parts:
        train, test = _hold_out(train, "test", folder)
    if "val" in parts:
        val = _read(parts["val"], train.classes, size)
        part = train.subset(~np.isin(train.hashes, val.hashes))
    else:
        part, val = _hold_out(train, "val", folder)
    missing = before - set(part.labels.tolist())
    if missing:
        raise DataError(f"{folder}: all pictures of {train.classes[min(missing)]!r} were held out: add others")
    return part, val, test


def _hold_out(split: Split, name: str, folder: Path) -> tuple[Split, Split]:
    """Hold a tenth out, at least one image."""
    rest, held = hold_out(split)
    if not len(held):
        raise DataError(f"{folder}: {len(split)} pictures are too few to hold a tenth out: add a folder {name!r}")
    return rest, held


def _read(place: Path, classes: Sequence[str], size: Size | None) -> Split:
    """Read `place/CLASS/*`; the labels count `classes`."""
    paths: list[Path] = []
    labels: list[int] = []
    for path in _folders(place):
        if path.name not in classes:
            known = f"{', '.join(classes[:3])}, ... ({len(classes)})"
            raise DataError(f"{path} is none of the classes {known}{suggestion(path.name, classes)}")
        files = sorted(_files(path, (place.resolve(),)), key=lambda file: (str(file.parent), file.name))
        paths += files
        labels += [classes.index(path.name)] * len(files)
    if not paths:
        raise NotFoundError(f"{place} has no pictures")
    return Split(read_pictures(paths, size), np.array(labels, np.int64), tuple(classes))


def _class_names(place: Path) -> list[str]:
    """Return the names of the classes in a folder; `DataError` unless there are two or more, all fit to be printed."""
    names = [path.name for path in _folders(place)]
    for name in names:
        if not name.isprintable():
            raise DataError(f"{str(place / name)!r} cannot be the name of a class: rename it")
    if len(names) < 2:  # noqa: PLR2004
        raise DataError(f"{place} has one class only, {names[0]!r}: there must be a sub-folder for each of two or more")
    return names


def _folders(folder: Path) -> list[Path]:
    """Return the sub-folders of a folder, sorted by name."""
    return [folder / name for name, kind in sorted(_listing(folder)) if kind == "folder"]


def _files(folder: Path, above: tuple[Path, ...]) -> list[Path]:
    """Return every file below a folder; `above` are the real paths of the folders it lies in."""
    real = folder.resolve()
    if real in above:
        raise DataError(f"{folder} is a link to a folder that it lies in: remove it")
    found: list[Path] = []
    for name, kind in _listing(folder):
        if kind == "folder":
            found += _files(folder / name, (*above, real))
        elif kind == "file":
            if name.lower().endswith(_SUFFIXES):
                found.append(folder / name)
        else:
            raise DataError(f"{folder / name} is neither a file nor a folder: remove it")
    return found


def _has_picture(folder: Path) -> bool:
    """Say whether a file in a folder is called like a picture."""
    return any(kind == "file" and name.lower().endswith(_SUFFIXES) for name, kind in _listing(folder))


def _listing(folder: Path) -> list[tuple[str, str]]:
    """Return (name, `file` or `folder` or neither) of what lies in a folder, links followed, hidden names left out."""
    try:
        with os.scandir(folder) as entries:
            return [
                (e.name, "folder" if e.is_dir() else "file" if e.is_file() else "")
                for e in entries
                if not e.name.startswith(".")
            ]
    except OSError as error:
        raise NotFoundError(f"cannot read {error.filename or folder}: {error.strerror}") from error
