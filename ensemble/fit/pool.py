"""The candidates' stored logits on the validation split, as one compact array. The test split's are left alone."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.fit.leaks import check_unseen, refuse_mixed, refuse_unknown
from ensemble.members import Member
from ensemble.view_cache import cached_views
from tta import view_set
from zoo.data.split import Labels
from zoo.entry import PREDICTIONS, Entry
from zoo.errors import DataError, NotFoundError
from zoo.predictions import Logits, SplitPredictions

__all__ = ["SPLIT", "MissingViewsError", "Pool", "read_pool", "views_of"]

SPLIT = "val"
"""The only split that anything is fitted on."""


class MissingViewsError(NotFoundError):
    """Candidates have stored predictions, but not under all views.

    Args:
        missing: name of a view set -> names of the candidates that lack some of its views.
    """

    def __init__(self, missing: Mapping[str, Sequence[str]]) -> None:
        self.missing = missing
        parts = []
        for views, names in missing.items():
            words = ["ensemble", "eval", "--members", ",".join(names), "--tta", views, "--split", SPLIT, "--data"]
            who = "1 candidate" if len(names) == 1 else f"{len(names):,} candidates"
            parts.append(f"no stored predictions for --tta {views} of {who}: run `{shlex.join(words)} DIR --fresh`")
        super().__init__(f"{'; '.join(parts)} once, which keeps them (DIR has the training images)")


@dataclass(frozen=True, eq=False)
class Pool:
    """M candidates' logits under V views, on N images of C classes.

    Attributes:
        names: of the candidates, sorted, so that ties go to the first name.
        views: names of the views.
        logits: fp16 `[M, V, C, N]`; images last, so that sums over classes run along long rows.
        labels: `[N]`.
    """

    names: tuple[str, ...]
    views: tuple[str, ...]
    logits: Logits
    labels: Labels

    def columns(self, views: str) -> tuple[list[int], npt.NDArray[np.float64]]:
        """Return a view set's places in `self.views`, and its weights."""
        chosen = view_set(views)
        return [self.views.index(view.name) for view in chosen], np.array([view.weight for view in chosen])

    def probs(
        self, some: slice | npt.NDArray[np.intp], views: str, temperatures: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """Return the probabilities of m candidates, weighted means over their views.

        Args:
            some: the candidates, a slice or their numbers.
            views: name of the view set.
            temperatures: of these candidates, `[m]`.

        Returns:
            float32 `[m, C, N]`.
        """
        columns, weights = self.columns(views)
        z = self.logits[some][:, columns].astype(np.float32)
        z -= z.max(2, keepdims=True)
        z /= temperatures[:, None, None, None].astype(np.float32)
        np.exp(z, out=z)
        z *= weights.astype(np.float32)[:, None, None] / z.sum(2, keepdims=True)
        out: npt.NDArray[np.float32] = z.sum(1)
        return out

    def rows(self, images: npt.NDArray[np.generic] | slice) -> "Pool":
        """Return the pool on some of the images: row numbers, a mask or a slice."""
        return Pool(self.names, self.views, self.logits[..., images], self.labels[images])


def views_of(sets: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all views of some view sets, each once; `UsageError` if a set is unknown."""
    return tuple(dict.fromkeys(view.name for name in sets for view in view_set(name)))


def read_pool(members: Sequence[Member], sets: Sequence[str]) -> tuple[Pool, dict[str, Entry], str]:
    """Read the candidates' predictions on the validation split that none of them saw.

    Args:
        members: the candidates, in any order; weights and temperatures do not matter.
        sets: names of the view sets that shall be tried.

    Returns:
        The pool, name -> entry, and the validation split's fingerprint.

    Raises:
        UsageError, DataError: as `refuse_mixed`, `refuse_unknown` and `check_unseen`; or predictions for other
            images than the others'.
        NotFoundError: an entry has no stored predictions for the split; or, as `MissingViewsError` of all such
            entries, not under all views.
    """
    refuse_mixed(members)
    entries = {entry.name: entry for entry in sorted(refuse_unknown(members), key=lambda e: e.name)}
    views = views_of(sets)
    names = tuple(entries)
    silent = [name for name, entry in entries.items() if PREDICTIONS not in entry.sums]
    if silent:
        raise _without_predictions(silent)
    first = _stored(entries[names[0]])
    logits = np.empty((len(names), len(views), *first.views["none"].T.shape), np.float16)
    missing: dict[str, list[str]] = {}

    for row, (name, entry) in enumerate(entries.items()):
        stored = _stored(entry) if row else first
        if stored.fingerprint != first.fingerprint:
            raise DataError(
                f"these are predictions for different validation images: {names[0]} ({first.fingerprint[:8]}), "
                f"{name} ({stored.fingerprint[:8]})"
            )
        known = dict(stored.views)
        if not set(views) <= set(known):
            known = {**cached_views(entry, SPLIT, stored.fingerprint), **known}
        for wanted in sets:
            if not set(views_of([wanted])) <= set(known):
                missing.setdefault(wanted, []).append(name)
        if not missing:
            for column, view in enumerate(views):
                logits[row, column] = known[view].T

    if missing:
        raise MissingViewsError(missing)
    return Pool(names, views, logits, first.labels), entries, first.fingerprint


def _stored(entry: Entry) -> SplitPredictions:
    """Return an entry's predictions for the validation split, checked against its card."""
    stored = entry.predictions().splits.get(SPLIT)
    if stored is None:
        raise _without_predictions([entry.name])
    check_unseen(entry, stored.fingerprint)
    shape = (len(stored.labels), len(entry.card.classes))
    if "none" not in stored.views or stored.views["none"].shape != shape or not shape[0]:
        raise DataError(f"{entry.name!r} has stored predictions that do not fit its {shape[1]} classes")
    return stored


def _without_predictions(names: Sequence[str]) -> NotFoundError:
    them = "it" if len(names) == 1 else "them"
    said = f"{', '.join(map(repr, names))} cannot take part in a fit"
    return NotFoundError(f"{said}: no stored predictions for the validation split; leave {them} out of the pool")
