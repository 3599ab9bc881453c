"""Entries without weights: someone else's predictions on a split, filed as a member for ensembles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo.card import Card
from zoo.data import Split
from zoo.entry import PREDICTIONS, Entry, write_files
from zoo.errors import DataError
from zoo.predictions import Predictions, SplitPredictions

__all__ = ["to_stored", "write_external"]

_WORST = float(np.finfo(np.float16).max)


def to_stored(views: Mapping[str, npt.NDArray[np.float32]], split: Split) -> SplitPredictions:
    """Return logits as entries store them: fp16.

    Args:
        views: view name -> logits `[N, C]`, rows as `Split.order` has them.
        split: what they are for.

    Raises:
        DataError: a logit is beyond fp16, which ends at 65,504; adding a constant to a row's logits changes nothing.
    """
    for view, logits in views.items():
        if not (np.abs(logits) <= _WORST).all():
            raise DataError(f"the logits of view {view!r} are not all finite numbers of at most {_WORST:,.0f}")
    halves = {view: logits.astype(np.float16) for view, logits in views.items()}
    return SplitPredictions(halves, split.labels[split.order], split.fingerprint)


def write_external(target: Path, card: Card, predictions: Predictions, *, replace: bool = False) -> Entry:
    """Write an entry that has predictions and no weights to the folder `target`, whole or not at all.

    Args:
        target: the folder; its name must be the card's.
        card: of the architecture `zoo.card.EXTERNAL`.
        predictions: at least of one split, under the view `none`.
        replace: whether an existing folder may be replaced.

    Raises:
        StorageError: the disk refuses, or `target` exists and `replace` is false.
    """
    return write_files(target, card, {PREDICTIONS: predictions.encode()}, replace=replace)
