"""Pictures that people send, and the committee's answer to them."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.runtime.answer import Answer
from export.serve.interface import Interface
from export.serve.multipart import file_of_form, is_form
from export.serve.problem import Problem
from zoo.data.pictures import decode_picture
from zoo.errors import CorruptError, DataError

__all__ = ["FORMATS", "Room", "describe", "picture_of"]

FORMATS = ("PNG", "JPEG", "WEBP")
"""That are decoded, as Pillow calls them."""


class Room:
    """Memory for pictures that are being unpacked, by several threads.

    Args:
        pixels: that they may have together; one with more is alone.
    """

    def __init__(self, pixels: int) -> None:
        self._most, self._left = pixels, pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for a picture, and keep it for the block."""
        pixels = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


def picture_of(
    body: bytes,
    content_type: str,
    size: tuple[int, int],
    *,
    most_pixels: int,
    room: Callable[[int], AbstractContextManager[None]] = lambda _pixels: nullcontext(),
) -> npt.NDArray[np.uint8]:
    """Return the picture of a request as the model takes it, uint8 `[1, H, W, 3]`.

    Args:
        body: a picture file, or a form with one.
        content_type: of the body; only whether it is a form matters, the picture says itself what it is.
        size: (H, W) of the model's images: the picture is scaled to cover it, and cropped at the centre.
        most_pixels: of the picture.
        room: for its pixels while it is unpacked, as `Room.taken` gives it.

    Raises:
        Problem: 400 without a picture, 413 for one with too many pixels, 415 for anything but PNG, JPEG and WebP.
    """
    content = file_of_form(body, content_type) if is_form(content_type) else body
    if not content:
        raise Problem(400, "there is no picture: send a PNG, JPEG or WebP file as the body, or in a form")
    try:
        with room(_pixels(content)):
            return decode_picture(content, size, formats=FORMATS, most_pixels=most_pixels)[None]
    except DataError as error:
        raise Problem(413, str(error)) from error
    except CorruptError as error:
        raise Problem(415, "the picture cannot be read: send a whole PNG, JPEG or WebP file") from error


def _pixels(content: bytes) -> int:
    """Return how many pixels a picture says it has; none if it does not, or has far too many to be unpacked."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            return file.width * file.height
    except Exception:  # noqa: BLE001  # decoders raise whatever the bytes provoke, and will again
        return 0


def describe(answer: Answer, interface: Interface, *, top: int) -> dict[str, Any]:
    """Return what a committee says of one picture, for people.

    Args:
        answer: to the picture.
        interface: of the model.
        top: classes to show, from 1.

    Returns:
        `top`: the likeliest classes, `class` and `prob`. If the model gives its members' probabilities also `members`:
        `name`, `class` and `prob` of each that was asked; `agree`, how many of them are of the committee's opinion,
        `agreement`, their share, and `disagreement`, the share of the weight that is of another one; otherwise these
        are null. `stage` of a cascade, from 1.
    """
    probs = answer.probs[0]
    order = np.argsort(-probs, kind="stable")
    found: dict[str, Any] = {
        "top": [{"class": interface.classes[c], "prob": float(probs[c])} for c in order[:top].tolist()],
        "members": None,
        "agree": None,
        "agreement": None,
        "disagreement": None,
    }
    if answer.member_probs is not None:
        found |= _votes(answer.member_probs[0], int(order[0]), interface)
    if answer.stage is not None:
        found["stage"] = int(answer.stage[0]) + 1
    return found


def _votes(member_probs: npt.NDArray[np.float32], own: int, interface: Interface) -> dict[str, Any]:
    """Return each member's vote, and how far they agree with the committee's `own` class."""
    votes, agree, weight, others = [], 0, 0.0, 0.0
    for name, share, probs in zip(interface.members, interface.weights, member_probs, strict=True):
        if np.isnan(probs).any():  # a cascade did not ask it
            continue
        vote = int(probs.argmax())
        votes.append({"name": name, "class": interface.classes[vote], "prob": float(probs[vote])})
        agree += vote == own
        weight += share
        others += share * (vote != own)
    return {"members": votes, "agree": agree, "agreement": agree / len(votes), "disagreement": others / weight}
