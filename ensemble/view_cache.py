"""Logits of views that entries do not ship, kept after a fresh run, by the sha256 of weights and card."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from zoo import store
from zoo.data import Split
from zoo.entry import CONFIG, Entry
from zoo.errors import CorruptError
from zoo.files import atomic_write, storage_errors
from zoo.predictions import Logits, Predictions, SplitPredictions

__all__ = ["cached_views", "keep_views"]


def _path(entry: Entry, split: str, fingerprint: str) -> Path:
    parts = (
        entry.weights_digest[:32],
        entry.sum_of(CONFIG)[:16],
        split,
        fingerprint[:16],
    )  # the card has mean and std
    return store.home() / "views" / f"{'-'.join(parts)}.safetensors"


def cached_views(entry: Entry, split: str, fingerprint: str) -> Mapping[str, Logits]:
    """Return view name -> fp16 logits `[N, C]` of a split that an earlier fresh run kept; empty if there are none."""
    path = _path(entry, split, fingerprint)
    if not path.is_file():
        return {}
    try:
        return Predictions.decode(path.read_bytes(), str(path)).splits[split].views
    except (CorruptError, KeyError, OSError):  # a cache: whatever is wrong with it, the networks can run again
        return {}


def keep_views(
    entry: Entry, name: str, split: Split, logits: Mapping[str, npt.NDArray[np.floating]]
) -> Mapping[str, Logits]:
    """Add logits (rows as `split.order` has them) to the cache of an entry's split `name`; several processes may.

    Returns:
        What `cached_views` will return.
    """
    path = _path(entry, name, split.fingerprint)
    fresh = {view: values.astype(np.float16) for view, values in logits.items()}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            views = {**cached_views(entry, name, split.fingerprint), **fresh}
            stored = SplitPredictions(views, split.labels[split.order], split.fingerprint)
            atomic_write(path, Predictions({name: stored}).encode())
    return views
