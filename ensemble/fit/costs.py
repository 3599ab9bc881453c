"""What a member costs under a view set: multiply-adds by its card, or milliseconds measured on a device."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tta import view_set
from zoo.card import Card
from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ensemble.latency.cache import Known, LatencyCache
    from tta.freeze import Setting
    from tta.predict import TTA

__all__ = ["measured_costs", "multiply_adds"]


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
    cards: Sequence[Card],
    views: str,
    cache: "LatencyCache",
    batch: int = 1,
    *,
    remeasure: bool = False,
    tell: Callable[[Card, str, "Known"], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the median milliseconds that each member takes for a batch under all views of a set, `[M]`.

    Networks are frozen, in the precision that is best for the device, as `ensemble.frozen.freeze` leaves them. Each
    architecture is measured once, with random weights, whose values do not matter to the time, unless the cache knows
    it.

    Args:
        cards: of the M members.
        views: name of a view set; all views of a batch run as one.
        cache: of the device they are for.
        batch: images at a time.
        remeasure: whether what the cache knows counts for nothing.
        tell: called for each architecture with its first card, the view set and what is known.
    """
    from ensemble.latency.cache import cached  # noqa: PLC0415  # only this needs PyTorch
    from ensemble.latency.workload import Workload, of_network  # noqa: PLC0415
    from tta.freeze import Setting  # noqa: PLC0415

    setting = Setting.best(cache.device)
    known: dict[str, float] = {}
    costs = []
    for card in cards:
        workload = Workload(of_network(card), views, batch, setting.precision, "frozen")
        key = json.dumps(workload.what, sort_keys=True)
        if key not in known:
            make = partial(_network, card, views, batch, setting)
            found = cached(cache, workload, make, remeasure=remeasure)
            known[key] = found.latency.median_ms
            if tell is not None:
                tell(card, views, found)
        costs.append(known[key])
    return np.array(costs)


def _network(card: Card, views: str, batch: int, setting: "Setting") -> "tuple[TTA, Tensor]":
    """Return a card's network with random weights behind a view set, and a batch of noise for it."""
    import torch  # noqa: PLC0415

    from tta.freeze import FrozenNet  # noqa: PLC0415
    from tta.predict import TTA  # noqa: PLC0415
    from zoo.archs import create  # noqa: PLC0415

    net = FrozenNet(create(card.architecture, len(card.classes), **card.architecture_args).eval(), setting)
    return TTA(net, view_set(views)).eval(), torch.rand(batch, 3, *card.input_size, device=setting.device)
