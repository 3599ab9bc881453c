"""What a member costs under a view set: multiply-adds by its card, or milliseconds measured on a device."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tta import view_set
from zoo.card import Card
from zoo.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = ["forward_milliseconds", "measured_costs", "multiply_adds"]

_WARM, _TIMED, _MOST_SECONDS = 3, 15, 2.0


def multiply_adds(cards: Sequence[Card], views: str) -> npt.NDArray[np.float64]:
    """Return the multiply-adds of each member for one image under all views of a set, in units of 10^9, `[M]`.

    Raises:
        DataError: a card does not say how many its network has.
    """
    silent = next((card.name for card in cards if not card.multiply_adds), None)
    if silent is not None:
        raise DataError(f"the card of {silent!r} does not say how many multiply-adds its network has")
    return np.array([card.multiply_adds for card in cards], np.float64) * len(view_set(views)) / 1e9


def measured_costs(
    cards: Sequence[Card], views: str, device: "torch.device", batch: int = 1
) -> npt.NDArray[np.float64]:
    """Return the milliseconds that each member takes for a batch under all views of a set, `[M]`.

    Each architecture is measured once, with random weights, whose values do not matter to the time.
    """
    known: dict[str, float] = {}
    for card in cards:
        key = _key(card)
        if key not in known:
            known[key] = forward_milliseconds(card, batch * len(view_set(views)), device)
    return np.array([known[_key(card)] for card in cards])


def _key(card: Card) -> str:
    return repr((card.architecture, sorted(card.architecture_args.items()), card.input_size, len(card.classes)))


def forward_milliseconds(card: Card, batch: int, device: "torch.device") -> float:
    """Return the median time in milliseconds of a card's network for a batch on a device, in fp32, after warming up."""
    import torch  # noqa: PLC0415  # only this needs it

    from zoo.archs import create  # noqa: PLC0415

    net = create(card.architecture, len(card.classes), **card.architecture_args).eval().to(device)
    images = torch.rand(batch, 3, *card.input_size, device=device)
    seconds: list[float] = []
    with torch.inference_mode():
        began = time.perf_counter()
        for number in range(_WARM + _TIMED):
            start = time.perf_counter()
            net(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= _WARM:
                seconds.append(time.perf_counter() - start)
            if len(seconds) > 2 and time.perf_counter() - began > _MOST_SECONDS:  # noqa: PLR2004  # enough for a median
                break
    return 1e3 * statistics.median(seconds)
