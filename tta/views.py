"""Views: pure functions that change an image without changing what it shows, and named sets of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zoo.errors import UsageError
from zoo.names import suggestion

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["VIEW_SETS", "View", "flip", "identity", "shift", "view_set"]


def identity(images: "Tensor") -> "Tensor":
    """Return `images` as they are."""
    return images


def flip(images: "Tensor") -> "Tensor":
    """Mirror left and right: `[N, C, H, W]` -> `[N, C, H, W]`."""
    return images.flip(-1)


def shift(images: "Tensor", down: int, right: int) -> "Tensor":
    """Move the content by whole pixels; what comes in at the edges is reflected.

    Args:
        images: `[N, C, H, W]`.
        down: pixels, negative for up; `|down| < H`.
        right: pixels, negative for left; `|right| < W`.

    Returns:
        `[N, C, H, W]`.
    """
    from torch.nn.functional import pad  # noqa: PLC0415  # the names of views must not cost an import of torch

    height, width = images.shape[-2:]
    padded = pad(images, (abs(right), abs(right), abs(down), abs(down)), mode="reflect")
    top, left = abs(down) - down, abs(right) - right
    return padded[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class View:
    """One view of a set.

    Attributes:
        name: the key of its logits in stored predictions.
        apply: `[N, C, H, W]` -> `[N, C, H, W]`.
        weight: in the merge; the weights of a set sum to 1.
    """

    name: str
    apply: Callable[["Tensor"], "Tensor"]
    weight: float


def _flip_after(images: "Tensor", before: Callable[["Tensor"], "Tensor"]) -> "Tensor":
    return flip(before(images))


def _flipped(view: View) -> tuple[View, View]:
    """Return a view and its mirror image, with half its weight each."""
    name = "flip" if view.name == "none" else f"flip+{view.name}"
    half = view.weight / 2
    return View(view.name, view.apply, half), View(name, partial(_flip_after, before=view.apply), half)


def _shifted(name: str, down: int, right: int, weight: float) -> View:
    return View(name, partial(shift, down=down, right=right), weight)


VIEW_SETS: Mapping[str, tuple[View, ...]] = {
    "none": (View("none", identity, 1.0),),
    "flip": _flipped(View("none", identity, 1.0)),
    # As airbench's `tta_level=2`: the image as it is has half the weight, the two shifts a quarter each.
    "flip+shift1": (
        *_flipped(View("none", identity, 0.5)),
        *_flipped(_shifted("shift-1-1", -1, -1, 0.25)),
        *_flipped(_shifted("shift+1+1", 1, 1, 0.25)),
    ),
    # torchvision's FiveCrop of the image padded by two pixels.
    "crops5": (
        View("none", identity, 0.2),
        *(_shifted(f"shift{y:+d}{x:+d}", y, x, 0.2) for y in (-2, 2) for x in (-2, 2)),
    ),
}
"""View set name -> its views."""


def view_set(name: str) -> tuple[View, ...]:
    """Return the views of a named set; `UsageError` if there is none of this name."""
    if name not in VIEW_SETS:
        raise UsageError(f"unknown view set {name!r}{suggestion(name, VIEW_SETS)}; there are {', '.join(VIEW_SETS)}")
    return VIEW_SETS[name]
