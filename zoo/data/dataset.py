"""Datasets by name or folder: CIFAR from the package, a mosaic folder or torchvision; anybody's folder of pictures."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.data import image_folder
from zoo.data.mosaic import INDEX, read_index, read_mosaic
from zoo.data.split import Split, hold_out
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError, UsageError
from zoo.names import is_name, suggestion

__all__ = ["DATASETS", "SPLITS", "dataset_name", "load_all", "load_split", "load_training"]

DATASETS = ("cifar10", "cifar100")
"""The datasets that need no folder of one's own; in a folder, a dataset may have any name."""

SPLITS = ("test", "val")

_SHIPPED = Path(__file__).parent
"""The package ships CIFAR-10's test split here, as a mosaic."""

_CLASSES = {"cifar10": 10, "cifar100": 100}
_TORCHVISION = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_LONGEST = 40

Size = tuple[int, int]


def dataset_name(folder: Path | None) -> str:
    """Return what the data in a folder is called: the dataset of a card, and a part of an entry's name.

    CIFAR is recognised by its files (a mosaic by its 10 or 100 classes); other data is called as its folder is, in
    lower case, with a hyphen for whatever a name cannot have. Where nothing is recognised, it is `cifar10`.
    """
    if folder is None:
        return "cifar10"
    if (folder / INDEX).is_file():
        classes = len(read_index(folder)["classes"])
        return next((name for name in DATASETS if _CLASSES[name] == classes), _slug(folder))
    for name in DATASETS:
        if (folder / name / INDEX).is_file() or (folder / _TORCHVISION[name]).is_dir():
            return name
    return _slug(folder) if image_folder.is_image_folder(folder) else "cifar10"


def load_split(
    dataset: str,
    split: str,
    folder: Path | None = None,
    *,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
) -> Split:
    """Load the `test` or `val` split of a dataset.

    Args:
        dataset: `cifar10`, `cifar100`, or whatever the data in `folder` (or in `ZOO_DATA/NAME`) is called.
        split: `test`, or `val` (10 % of the training images, see `hold_out`).
        folder: a mosaic folder, torchvision's root or a folder of pictures (see `zoo.data.image_folder`); by default
            what the package ships, then `ZOO_DATA`.
        size: (height, width) of the images. A folder of pictures is scaled and cropped to it; other data must have it.
        classes: names that the labels of a folder of pictures shall count; by default the folder's own. Other data
            knows its classes.

    Raises:
        UsageError: no such dataset or split.
        NotFoundError: the data is in none of these places.
        DataError: the data does not fit the dataset, `size` or `classes`, or not together.
        CorruptError: a file is damaged, or is no picture.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    pictures = _pictures(dataset, folder)
    if pictures is not None:
        return image_folder.read_split(pictures, split, size, classes)
    if split == "val":
        return load_training(dataset, folder, size=size)[1]
    return _read(dataset, "test", folder, size)


def load_training(dataset: str, folder: Path | None = None, *, size: Size | None = None) -> tuple[Split, Split]:
    """Load the training images of a dataset as (training part, validation part).

    The training part is in `Split.order`, so that what is trained does not depend on how the images lay on disk.
    Arguments and errors are those of `load_split`.
    """
    pictures = _pictures_to_train(dataset, folder)
    if pictures is not None:
        part, val = image_folder.read_training(pictures, size)
    else:
        part, val = hold_out(_read(dataset, "train", folder, size))
    return part.subset(part.order), val


def load_all(dataset: str, folder: Path | None = None, *, size: Size | None = None) -> tuple[Split, Split, Split]:
    """Load a dataset as (training part, validation part, test split), each file once.

    The training part is in `Split.order`, as in `load_training`. Arguments are those of `load_split`.

    Raises:
        DataError: the three do not have images of one size; or, like other errors, as in `load_split`.
    """
    pictures = _pictures_to_train(dataset, folder)
    if pictures is not None:
        part, val, test = image_folder.read_all(pictures, size)
    else:
        part, val = hold_out(_read(dataset, "train", folder, size))
        test = _read(dataset, "test", folder, size)
    sizes = [split.images.shape[1:3] for split in (part, val, test)]
    if len(set(sizes)) > 1:
        said = ", ".join("{} x {}".format(*hw) for hw in sizes)
        raise DataError(
            f"{folder or dataset}: training, validation and test images have {said} pixels: "
            "give --size N to scale and crop pictures to one"
        )
    return part.subset(part.order), val, test


def _slug(folder: Path) -> str:
    """Return a folder's name as a well-formed entry name; `images` if nothing of it is left."""
    plain = unicodedata.normalize("NFKD", folder.resolve().name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).lstrip("._-")[:_LONGEST].rstrip("._-") or "images"


def _pictures(dataset: str, folder: Path | None) -> Path | None:
    """Return the folder of pictures that a dataset is to be read from, if it is one."""
    if folder is None:
        home = os.environ.get("ZOO_DATA")
        place = Path(home) / dataset if home and dataset not in DATASETS and is_name(dataset) else None
        return place if place is not None and image_folder.is_image_folder(place) else None
    places = _places(dataset, folder)
    if any((place / INDEX).is_file() for place in places) or (folder / _TORCHVISION.get(dataset, INDEX)).exists():
        return None
    return next((place for place in places if image_folder.is_image_folder(place)), None)


def _pictures_to_train(dataset: str, folder: Path | None) -> Path | None:
    """Return the same; CIFAR's names are not for other people's pictures."""
    found = _pictures(dataset, folder)
    if found is not None and dataset in DATASETS and len(image_folder.class_names(found)) != _CLASSES[dataset]:
        raise DataError(f"{found} does not have the {_CLASSES[dataset]} classes of {dataset}: leave --dataset out")
    return found


def _places(dataset: str, folder: Path) -> list[Path]:
    """Return where in a folder that the user named a dataset may lie: right there, or below it under its name."""
    return [folder, folder / dataset] if is_name(dataset) else [folder]


def _read(dataset: str, part: str, folder: Path | None, size: Size | None) -> Split:
    """Read `part` ("train" or "test") of `dataset`, which is no folder of pictures, and check that it fits."""
    split = _find(dataset, part) if folder is None else _read_folder(dataset, part, folder)
    where = folder or dataset
    wanted = _CLASSES.get(dataset, len(split.classes))
    if len(split.classes) != wanted:
        raise DataError(f"{where} has {len(split.classes)} classes, {dataset} has {wanted}: this is another dataset")
    if size is not None and size != split.images.shape[1:3]:
        found = "{} x {}".format(*split.images.shape[1:3])
        raise DataError(
            f"{where} has images of {found} pixels, not {size[0]} x {size[1]}: only pictures in folders are scaled"
        )
    return split


def _find(dataset: str, part: str) -> Split:
    """Read from the first place that has the data: the package, then `ZOO_DATA`."""
    home = os.environ.get("ZOO_DATA")
    known = dataset in DATASETS
    places = [_SHIPPED / dataset] if known else []
    if home and is_name(dataset):
        places += [Path(home) / dataset] + ([Path(home)] if known else [])
    for place in places:
        if _mosaic_parts(place, part):
            return _read_mosaics(place, part)
    if not known:
        raise UsageError(
            f"unknown dataset {dataset!r}{suggestion(dataset, DATASETS)}; there are {', '.join(DATASETS)}, "
            "and others in a folder: give --data DIR"
        )
    if home:
        return _read_torchvision(dataset, part, Path(home), download=True)
    raise NotFoundError(
        f"the {part} images of {dataset} do not ship with this package: give --data DIR, or set ZOO_DATA"
    )


def _read_folder(dataset: str, part: str, folder: Path) -> Split:
    """Read from a folder the user named: a mosaic folder, or a torchvision root."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise NotFoundError(f"data folder {str(folder)!r} {what}")
    for place in _places(dataset, folder):
        if (place / INDEX).is_file():
            if not _mosaic_parts(place, part):
                raise NotFoundError(f"{place / INDEX} lists no {part} images")
            return _read_mosaics(place, part)
    if dataset not in DATASETS:
        raise NotFoundError(f"no {dataset} in {str(folder)!r}: neither a mosaic ({INDEX}) nor {image_folder.LAYOUT}")
    return _read_torchvision(dataset, part, folder, download=False)


def _mosaic_parts(folder: Path, part: str) -> list[str]:
    """Names of the mosaics that make up `part`: `test`, or `train-1`, `train-2`, ..."""
    if not (folder / INDEX).is_file():
        return []
    return [name for name in read_index(folder)["splits"] if name == part or name.startswith(f"{part}-")]


def _read_mosaics(folder: Path, part: str) -> Split:
    parts = [read_mosaic(folder, name) for name in _mosaic_parts(folder, part)]
    if len({p.images.shape[1:] for p in parts}) != 1:
        raise CorruptError(f"{folder}: the {part} mosaics hold images of different sizes")
    images = np.concatenate([p.images for p in parts])
    return Split(images, np.concatenate([p.labels for p in parts]), parts[0].classes)


def _read_torchvision(dataset: str, part: str, root: Path, *, download: bool) -> Split:
    """Read with torchvision, which checks MD5 sums and downloads where allowed."""
    from torchvision import datasets  # noqa: PLC0415  # imports torch

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        data = reader(str(root), train=part == "train", download=download)
    except RuntimeError as error:
        raise NotFoundError(
            f"no {dataset} in {str(root)!r}: neither a mosaic ({INDEX}), torchvision's files nor {image_folder.LAYOUT}"
        ) from error
    except OSError as error:
        raise MenagerieError(f"cannot download {dataset} to {str(root)!r}: {error}") from error
    return Split(np.asarray(data.data), np.asarray(data.targets, np.int64), tuple(data.classes))
