"""Splits as lossless mosaics: `NAME.webp`, `NAME.labels` and one `index.json` in a folder.

Image i of a mosaic is at row `i // 100`, column `i % 100`; the last row may be short. Labels are one byte an image.
CIFAR-10's 10,000 test images take 17 MB this way, bit for bit.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.split import Pixels, Split
from zoo.errors import CorruptError, DataError, NotFoundError

__all__ = ["INDEX", "read_index", "read_mosaic"]

INDEX = "index.json"
_COLUMNS = 100


def read_index(folder: Path) -> dict[str, Any]:
    """Return `index.json` of a mosaic folder: `classes` and, per split, `images` and checksums."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        classes, splits = index["classes"], index["splits"]
        well_formed = isinstance(classes, list) and all(isinstance(c, str) for c in classes)
        well_formed = well_formed and all(int(s["images"]) > 0 for s in splits.values())
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptError(f"{path} is not a mosaic index") from error
    if not well_formed:
        raise CorruptError(f"{path} is not a mosaic index")
    return dict(index)


def read_mosaic(folder: Path, name: str) -> Split:
    """Read the split `name` of a mosaic folder and check it against the sums of its index.

    Raises:
        NotFoundError: the folder has no such split.
        CorruptError: the pixels or labels are not those the index names.
    """
    index = read_index(folder)
    if name not in index["splits"]:
        raise NotFoundError(f"{folder} has no split {name!r}, only {', '.join(index['splits'])}")
    entry = index["splits"][name]
    images = _read_pixels(folder / f"{name}.webp", int(entry["images"]))
    try:
        labels = np.fromfile(folder / f"{name}.labels", np.uint8)
    except OSError as error:
        raise NotFoundError(f"cannot read {folder / name}.labels: {error.strerror}") from error
    for what, array in (("pixels", images), ("labels", labels)):
        wanted = entry.get(f"{what}_sha256")
        if wanted and hashlib.sha256(array.tobytes()).hexdigest() != wanted:
            raise CorruptError(f"{folder / name}: the {what} do not match the sha256 in {INDEX}")
    try:
        return Split(images, labels.astype(np.int64), tuple(index["classes"]))
    except DataError as error:
        raise CorruptError(f"{folder / name}: {error}") from error


def _read_pixels(path: Path, count: int) -> Pixels:
    """Return the first `count` images `[count, H, W, 3]` of a mosaic file; images are square."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  # keeps `zoo --help` quick

    try:
        with Image.open(path, formats=["WEBP"]) as file:
            sheet = np.asarray(file.convert("RGB"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise CorruptError(f"{path} is not a readable image") from error
    size = sheet.shape[1] // _COLUMNS
    rows = sheet.shape[0] // size if size else 0
    if sheet.shape != (rows * size, _COLUMNS * size, 3) or rows * _COLUMNS < count:
        raise CorruptError(f"{path} is {sheet.shape[1]} x {sheet.shape[0]} pixels, which does not hold {count} images")
    tiles = sheet.reshape(rows, size, _COLUMNS, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    return np.ascontiguousarray(tiles[:count])
