"""The predictions that travel with an entry: computed from its network, and compared with it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from tta.predict import view_logits
from tta.views import VIEW_SETS
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError
from zoo.predictions import SplitPredictions

__all__ = ["TOLERANCE", "largest_difference", "predict_split"]

TOLERANCE = 0.05
"""Largest difference of a stored fp16 logit from the network's on another machine that counts as the same."""


def predict_split(
    net: nn.Module,
    split: Split,
    stats: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> SplitPredictions:
    """Return a network's fp16 logits on a split, plain and mirrored, computed in fp32; rows as `Split.order` has them.

    Args:
        net: in eval mode, on `device`.
        split: what to predict.
        stats: mean and standard deviation per channel, in units of 0..1.
        device: where `net` is.
        progress: called after each batch with the number of images in it.
    """
    logits = view_logits(net, split.images[split.order], VIEW_SETS["flip"], stats, device=device, progress=progress)
    views = {view: values.astype(np.float16) for view, values in logits.items()}
    return SplitPredictions(views, split.labels[split.order], split.fingerprint)


def largest_difference(
    entry: Entry,
    name: str,
    split: Split,
    rows: int,
    *,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Run an entry's network on the first `rows` stored rows of a split; return the largest difference of a logit.

    Args:
        entry: with stored predictions.
        name: of the split, `val` or `test`.
        split: the images.
        rows: how many of them to run.
        device: where to run.
        progress: called after each batch with the number of images in it.

    Raises:
        NotFoundError: the entry has no predictions for this split.
        DataError: its predictions are for other images.
    """
    stored = entry.predictions().splits.get(name)
    if stored is None:
        raise NotFoundError(f"{entry.name!r} has no stored predictions for the {name} split")
    if stored.fingerprint != split.fingerprint:
        raise DataError(
            f"{entry.name!r} has stored predictions for other {name} images (fingerprint {stored.fingerprint[:8]})"
        )
    images = split.images[split.order[:rows]]
    card, net = entry.card, entry.load().to(device)
    fresh = view_logits(net, images, VIEW_SETS["flip"], (card.mean, card.std), device=device, progress=progress)
    gaps = [np.abs(fresh[view] - stored.views[view][:rows].astype(np.float32)).max() for view in fresh]
    return float(max(gaps))
