"""What a session says of images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.errors import UsageError

__all__ = ["Answer", "Floats", "check_images"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What M members say of N images.

    Attributes:
        probs: merged, `[N, C]`; its rows sum to 1, and `probs.argmax(1)` is the ensemble's class.
        member_probs: each member's own, over the views it was asked under, `[N, M, C]`; NaN where a cascade did not ask
            it. None if the graph was exported without.
        stage: of a cascade, at which each image left, from 0, `[N]`; None for a graph that is a whole ensemble.
    """

    probs: Floats
    member_probs: Floats | None = None
    stage: npt.NDArray[np.intp] | None = None


def check_images(images: object, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return images as a session takes them; `UsageError` unless they are uint8 `[N, H, W, 3]` of the graph's size.

    Args:
        images: whatever a caller gave.
        size: (H, W) in pixels.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (*size, 3):
        return np.ascontiguousarray(images)
    got = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
    raise UsageError(f"images are {got}: give a uint8 array [N, {size[0]}, {size[1]}, 3]")
