"""What the parents of a soup must have in common, and the card of what they become."""

import itertools
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.card import Card
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError
from zoo.predictions import SplitPredictions

__all__ = ["check_data", "check_parents", "soup_card", "stored_validation"]

_ALIKE = {
    "architecture": "architecture",
    "architecture_args": "architecture arguments",
    "dataset": "dataset",
    "classes": "classes",
    "mean": "mean",
    "std": "standard deviation",
    "input_size": "input size",
}
"""Field of the card -> what to call it: without these in common, a mean of weights means nothing."""


def check_parents(parents: Sequence[Entry]) -> None:
    """Raise unless the weights of these entries can be averaged, and judged on a split that none was trained on.

    Only cards and sums are read.

    Raises:
        UsageError: fewer than two, or one of them twice (by name, or by its weights).
        NotFoundError: of one there are only the predictions.
        DataError: they are not alike, one does not say what it was trained on, or not all were trained on the same
            images and held out the same.
    """
    if len(parents) < 2:  # noqa: PLR2004  # one is no mean
        found = f"only {parents[0].name!r}" if parents else "nothing"
        raise UsageError(f"a soup is made of two entries or more, {found} was named")
    for one, other in itertools.combinations(parents, 2):
        if one.name == other.name:
            raise UsageError(f"{one.name!r} is named twice: each entry counts once")
        if one.weights_digest == other.weights_digest:
            raise UsageError(f"{one.name!r} and {other.name!r} have the same weights: leave one of them out")
    first = parents[0].card
    for parent in parents:
        parent.need_weights()
        _check_alike(first, parent.card)
    for parent in parents:
        _check_trained_on(first, parent.card)


def _check_alike(first: Card, card: Card) -> None:
    """Raise `DataError` if two cards differ in what makes weights comparable."""
    for field, called in _ALIKE.items():
        mine, its = getattr(first, field), getattr(card, field)
        if mine != its:
            raise DataError(
                f"{first.name!r} and {card.name!r} differ in {called} ({_short(mine)}, {_short(its)}): "
                "only networks that are alike can be averaged"
            )


def _check_trained_on(first: Card, card: Card) -> None:
    """Raise `DataError` unless both say that they were trained on the same images, and held out the same."""
    if first.trained_on is None or card.trained_on is None:
        silent = first if first.trained_on is None else card
        raise DataError(
            f"{silent.name!r} does not say what it was trained on: it may know the validation split, "
            "on which a soup is judged; leave it out"
        )
    mine, its = first.trained_on, card.trained_on
    if its["held_out"] == its["fingerprint"]:
        raise DataError(f"{card.name!r} was trained on the validation split, on which a soup is judged: leave it out")
    for key, what in (
        ("held_out", "held out another validation split"),
        ("fingerprint", "was trained on other images"),
    ):
        if mine[key] != its[key]:
            raise DataError(
                f"{card.name!r} {what} than {first.name!r} (fingerprint {its[key][:8]}, not {mine[key][:8]}): "
                "leave one of them out"
            )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"  # noqa: PLR2004  # a line has room for two


def stored_validation(entry: Entry) -> SplitPredictions:
    """Return an entry's stored predictions on the validation split that it held out.

    Raises:
        NotFoundError: it has none.
        DataError: they are for other images.
        CorruptError: they have not a column for each class.
    """
    stored = entry.predictions().splits.get("val")
    if stored is None:
        raise NotFoundError(f"{entry.name!r} has no stored predictions for the validation split: leave it out")
    if stored.fingerprint != (entry.card.trained_on or {}).get("held_out"):
        raise DataError(f"{entry.name!r} has stored predictions for other images than it held out: leave it out")
    classes = len(entry.card.classes)
    if {logits.shape[1] for logits in stored.views.values()} != {classes}:
        raise CorruptError(f"{entry.name!r} has stored predictions that do not fit its {classes} classes")
    return stored


def check_data(card: Card, part: Split, val: Split, where: str) -> None:
    """Raise `DataError` unless `part` is what a parent was trained on, and `val` what it held out.

    Args:
        card: of a parent.
        part: images for BatchNorm's statistics.
        val: images that the soup is judged on.
        where: what to call the data.
    """
    said = card.trained_on or {}
    if part.classes != card.classes:
        raise DataError(f"{where} has other classes than {card.name!r}: give the data that it was trained on")
    for split, key, what in ((val, "held_out", "held out"), (part, "fingerprint", "was trained on")):
        if split.fingerprint != said.get(key):
            raise DataError(
                f"{where} is not the data of {card.name!r}: it {what} other images "
                f"(fingerprint {str(said.get(key))[:8]}, not {split.fingerprint[:8]})"
            )


def soup_card(name: str, parents: Sequence[Entry], how: Mapping[str, Any]) -> Card:
    """Return the card of a soup, as far as it follows from its parents.

    Recipe and seed are those of the parents, if they are of one run.

    Args:
        name: of the soup.
        parents: whose mean it is, checked.
        how: what `training` says beside `parents` (`NAME@SHA256` of the weights) and `versions`.
    """
    import torch  # noqa: PLC0415  # parents are checked without

    card = parents[0].card
    runs = {(p.card.recipe, p.card.seed) for p in parents}
    recipe, seed = runs.pop() if len(runs) == 1 else (None, None)
    return Card(
        name=name,
        architecture=card.architecture,
        architecture_args=card.architecture_args,
        dataset=card.dataset,
        classes=card.classes,
        mean=card.mean,
        std=card.std,
        input_size=card.input_size,
        recipe=recipe,
        seed=seed,
        trained_on=card.trained_on,
        training={
            **how,
            "parents": [f"{p.name}@{p.weights_digest}" for p in parents],
            "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        },
    )
