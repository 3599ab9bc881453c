"""Training images to calibrate a quantized network on: a few of each class, the same whatever order they came in."""

from pathlib import Path

import numpy as np

from zoo.data.dataset import Size, load_training
from zoo.data.mosaic import read_mosaic
from zoo.data.split import Split
from zoo.errors import DataError, UsageError

__all__ = ["SHIPPED_IMAGES", "load_calibration", "sample"]

SHIPPED_IMAGES = 512
"""Of CIFAR-10, in the package: a mosaic beside the test split."""

_SHIPPED = Path(__file__).parent / "cifar10"


def load_calibration(
    dataset: str, folder: Path | None = None, *, images: int = SHIPPED_IMAGES, size: Size | None = None
) -> Split:
    """Load images that members trained on, none of the validation split, as balanced over the classes as they can be.

    Args:
        dataset: as in `zoo.data.load_training`.
        folder: with the training images [default: of CIFAR-10 the sample that ships, of others as in `load_training`].
        images: how many, from 1.
        size: (H, W) in pixels that they must have, or that a folder of pictures is scaled and cropped to.

    Raises:
        UsageError: more images than there are.
        DataError: the images that ship are of another size; and, like other errors, as in `zoo.data.load_training`.
    """
    if images < 1:
        raise UsageError(f"{images} calibration images: give a number from 1")
    if folder is not None or dataset != "cifar10":
        return sample(load_training(dataset, folder, size=size)[0], images)
    shipped = read_mosaic(_SHIPPED, "calibration")
    if size not in {None, shipped.images.shape[1:3]}:
        raise DataError("the shipped calibration images are of 32 x 32 pixels: give --data DIR with others")
    return sample(shipped, images)


def sample(part: Split, images: int) -> Split:
    """Return the images of a training part that calibrate: in turn of each class the one with the next smallest hash.

    A smaller sample is the beginning of a larger one.

    Args:
        part: training images.
        images: how many, from 1.

    Raises:
        UsageError: there are not as many.
    """
    if images > len(part):
        raise UsageError(
            f"{images:,} calibration images: there are {len(part):,}; give fewer, or --data DIR with more of them"
        )
    rank = np.empty(len(part), np.int64)  # of each image in its class
    for label in range(len(part.classes)):
        rows = part.order[part.labels[part.order] == label]
        rank[rows] = np.arange(len(rows))
    return part.subset(np.lexsort((part.labels, rank))[:images])
