"""A split of labelled images, its fingerprint, and the validation split that no member trains on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError

__all__ = ["Labels", "Pixels", "Split", "hold_out"]

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images of one size.

    Attributes:
        images: uint8 `[N, H, W, 3]`, RGB.
        labels: int64 `[N]`, each in `0 .. C-1`.
        classes: the C class names.

    Raises:
        DataError: shapes, types or labels do not fit together.
    """

    images: Pixels
    labels: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:  # noqa: PLR2004
            raise DataError(f"images must be uint8 [N, H, W, 3], got {self.images.dtype} {list(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype.kind not in "iu":
            shape = list(self.labels.shape)
            raise DataError(f"{len(self.images)} images have labels of type {self.labels.dtype} and shape {shape}")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels must lie in 0..{len(self.classes) - 1}, got {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.images)

    @cached_property
    def hashes(self) -> npt.NDArray[np.bytes_]:
        """Sha256 of each image's H x W x 3 bytes, as 64 hex digits: `[N]` of dtype `S64`."""
        return np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in self.images], dtype="S64")

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """Row numbers `[N]` that sort the split by (image hash, label): the order of stored predictions."""
        return np.lexsort((self.labels, self.hashes))

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (64 hex digits) over the sorted (image hash, label) pairs; no order of the images changes it."""
        digest = hashlib.sha256()
        for row in self.order:
            digest.update(b"%s %d\n" % (self.hashes[row], self.labels[row]))
        return digest.hexdigest()

    def subset(self, rows: npt.NDArray[np.generic] | slice) -> "Split":
        """Return the split of the chosen rows (an index array, a boolean mask or a slice)."""
        chosen = Split(self.images[rows], self.labels[rows], self.classes)
        if "hashes" in self.__dict__:
            chosen.__dict__["hashes"] = self.hashes[rows]  # no image is hashed twice
        return chosen


def hold_out(split: Split, fraction: float = 0.1) -> tuple[Split, Split]:
    """Divide training images into a part to train on and a validation part, the same whatever order they came in.

    Of each class, the `fraction` of images with the smallest sha256 of their pixels is held out. An image that occurs
    again, bit for bit, goes with its twin, so that no held-out image is ever trained on.

    Args:
        split: the training images.
        fraction: share of each class to hold out, in (0, 1).

    Returns:
        The training part and the validation part, each in the order of `split`.
    """
    held: set[bytes] = set()
    for label in range(len(split.classes)):
        hashes = np.sort(split.hashes[split.labels == label])
        held.update(hashes[: round(fraction * len(hashes))].tolist())
    mask = np.isin(split.hashes, np.array(sorted(held), dtype="S64"))
    return split.subset(~mask), split.subset(mask)
