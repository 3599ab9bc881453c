"""Datasets by name or folder: CIFAR from the package, a mosaic folder or torchvision."""

import os
from pathlib import Path

import numpy as np

from zoo.data.mosaic import INDEX, read_index, read_mosaic
from zoo.data.split import Split, hold_out
from zoo.errors import CorruptError, MenagerieError, NotFoundError, UsageError
from zoo.names import suggestion

__all__ = ["DATASETS", "MEAN_STD", "SPLITS", "load_split", "load_training"]

DATASETS = ("cifar10", "cifar100")
SPLITS = ("test", "val")

MEAN_STD: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Per-channel mean and standard deviation of the training images, in units of 0..1."""

_SHIPPED = Path(__file__).parent
"""The package ships CIFAR-10's test split here, as a mosaic."""


def load_split(dataset: str, split: str, folder: Path | None = None) -> Split:
    """Load the `test` or `val` split of a dataset.

    Args:
        dataset: `cifar10` or `cifar100`.
        split: `test`, or `val` (10 % of the training images, see `hold_out`).
        folder: where the data is; by default what the package ships, then `ZOO_DATA`.

    Raises:
        UsageError: no such dataset or split.
        NotFoundError: the data is in none of these places.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if split == "val":
        return load_training(dataset, folder)[1]
    return _read(dataset, "test", folder)


def load_training(dataset: str, folder: Path | None = None) -> tuple[Split, Split]:
    """Load the training images of a dataset as (training part, validation part); arguments as in `load_split`."""
    return hold_out(_read(dataset, "train", folder))


def _read(dataset: str, part: str, folder: Path | None) -> Split:
    """Read `part` ("train" or "test") of `dataset` from the first place that has it."""
    if dataset not in DATASETS:
        raise UsageError(f"unknown dataset {dataset!r}{suggestion(dataset, DATASETS)}; there are {', '.join(DATASETS)}")
    if folder is not None:
        return _read_folder(dataset, part, folder)
    home = os.environ.get("ZOO_DATA")
    places = [_SHIPPED / dataset] + ([Path(home) / dataset, Path(home)] if home else [])
    for place in places:
        if _mosaic_parts(place, part):
            return _read_mosaics(place, part)
    if home:
        return _read_torchvision(dataset, part, Path(home), download=True)
    raise NotFoundError(
        f"the {part} images of {dataset} do not ship with this package: give --data DIR, or set ZOO_DATA"
    )


def _read_folder(dataset: str, part: str, folder: Path) -> Split:
    """Read from a folder the user named: a mosaic folder, or a torchvision root."""
    if not folder.is_dir():
        raise NotFoundError(f"data folder {str(folder)!r} does not exist")
    for place in (folder, folder / dataset):
        if (place / INDEX).is_file():
            if not _mosaic_parts(place, part):
                raise NotFoundError(f"{place / INDEX} lists no {part} images")
            return _read_mosaics(place, part)
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
            f"no {dataset} in {str(root)!r}: neither a mosaic ({INDEX}) nor torchvision's files"
        ) from error
    except OSError as error:
        raise MenagerieError(f"cannot download {dataset} to {str(root)!r}: {error}") from error
    return Split(np.asarray(data.data), np.asarray(data.targets, np.int64), tuple(data.classes))
