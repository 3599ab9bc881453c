"""What the parents of a soup must have in common, refused line by line, and the card of their child."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.conftest import random_split
from tests.zoo.conftest import WEIGHTS, file_entry
from training.parents import check_data, check_parents, soup_card, stored_validation
from zoo.card import Card
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError, UsageError
from zoo.origins import Origin, write_origin
from zoo.predictions import Predictions, SplitPredictions

VAL, PART = random_split(20, seed=1), random_split(30, seed=2)
TRAINED_ON = {"images": 30, "fingerprint": PART.fingerprint, "held_out": VAL.fingerprint}

Make = Callable[..., Entry]


def logits(classes: int = 10, fingerprint: str = VAL.fingerprint) -> SplitPredictions:
    values = np.zeros((20, classes), np.float16)
    return SplitPredictions({"none": values, "flip": values}, VAL.labels, fingerprint)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that files an entry with weights of its own."""
    count = 0

    def entry(name: str, **changes: Any) -> Entry:  # noqa: ANN401  # fields of the card, weights and predictions
        nonlocal count
        count += 1
        weights = save({"head.weight": np.full(6, count, np.float16)}, metadata={"format": "pt"})
        fields: dict[str, Any] = {
            "weights": weights,
            "trained_on": TRAINED_ON,
            "predictions": Predictions({"val": logits()}),
        }
        return file_entry(tmp_path, name, **(fields | changes))

    return entry


def test_alike_entries_are_parents(make: Make) -> None:
    check_parents(
        [make("a", recipe="fastnet", seed=1), make("b", seed=2), make("c", metrics={}, training={"epochs": 1})]
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "resnet20"}, "architecture (fastnet, resnet20)"),
        ({"architecture_args": {"widths": [8, 8, 8]}}, "architecture arguments ({}, {'widths': [8, 8, 8]})"),
        ({"dataset": "cifar100"}, "dataset (cifar10, cifar100)"),
        ({"classes": ("cat", "dog")}, "classes (airplane, automobile, bird, cat, deer, …, cat, dog)"),
        ({"mean": (0.5, 0.4, 0.4)}, "mean (0.5, 0.4, 0.3, 0.5, 0.4, 0.4)"),
        ({"std": (0.2, 0.2, 0.2)}, "standard deviation (0.25, 0.2, 0.1, 0.2, 0.2, 0.2)"),
        ({"input_size": (24, 32)}, "input size (32, 32, 24, 32)"),
    ],
)
def test_what_is_not_alike_is_named(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        check_parents([make("a"), make("same"), make("b", **changes)])
    assert str(caught.value) == f"'a' and 'b' differ in {said}: only networks that are alike can be averaged"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("trained_on", "said"),
    [
        (None, r"^'leak' does not say what it was trained on: it may know the validation split, "),
        (
            TRAINED_ON | {"fingerprint": VAL.fingerprint},
            r"^'leak' was trained on the validation split, on which a soup is judged: leave it out$",
        ),
        (
            TRAINED_ON | {"held_out": "ab" * 32},
            r"held out another validation split than .* \(fingerprint .*abababab.*\): leave one of them out$",
        ),
        (TRAINED_ON | {"fingerprint": "cd" * 32}, r"was trained on other images than .*: leave one of them out$"),
    ],
)
def test_who_may_know_the_validation_split_is_refused(
    make: Make, trained_on: dict[str, Any] | None, said: str, first: bool
) -> None:
    parents = [make("a"), make("leak", trained_on=trained_on)]
    with pytest.raises(DataError, match=said) as caught:
        check_parents(parents[::-1] if first else parents)
    assert "'leak'" in str(caught.value)


def test_all_of_an_unknown_past_are_refused_too(make: Make) -> None:
    with pytest.raises(DataError, match=r"^'a' does not say"):
        check_parents([make("a", trained_on=None), make("b", trained_on=None)])
    leak = TRAINED_ON | {"fingerprint": VAL.fingerprint}
    with pytest.raises(DataError, match=r"^'c' was trained on the validation split"):
        check_parents([make("c", trained_on=leak), make("d", trained_on=leak)])


def test_fewer_than_two_are_no_soup(make: Make) -> None:
    for parents, found in (([], "nothing"), ([make("a")], "only 'a'")):
        with pytest.raises(UsageError, match=f"^a soup is made of two entries or more, {found} was named$"):
            check_parents(parents)


def test_each_network_counts_once(make: Make) -> None:
    a, b, copy = make("a"), make("b", weights=WEIGHTS), make("copy", weights=WEIGHTS)
    with pytest.raises(UsageError, match=r"^'a' is named twice: each entry counts once$"):
        check_parents([a, b, a])
    with pytest.raises(UsageError, match=r"^'b' and 'copy' have the same weights: leave one of them out$"):
        check_parents([a, b, copy])


def test_weights_must_be_here(make: Make, zoo_home: Path) -> None:
    published = make("far")
    folder = shutil.copytree(published.folder, zoo_home / "entries" / "far")
    write_origin("far", Origin("far://away", published.publication, "predictions"))
    partial = Entry("far", folder, "cache")
    (partial.folder / "model.safetensors").unlink()
    with pytest.raises(
        NotFoundError, match=r"^the weights of 'far' are not here, only its predictions: `zoo pull far`$"
    ):
        check_parents([make("a"), partial])


@pytest.mark.parametrize(
    ("splits", "error", "said"),
    [
        ({"test": logits()}, NotFoundError, "no stored predictions for the validation split"),
        ({"val": logits(fingerprint="ab" * 32)}, DataError, "stored predictions for other images than it held out"),
        ({"val": logits(classes=11)}, CorruptError, "stored predictions that do not fit its 10 classes"),
    ],
)
def test_predictions_must_be_of_the_split_that_was_held_out(
    make: Make, splits: dict[str, SplitPredictions], error: type[MenagerieError], said: str
) -> None:
    with pytest.raises(error, match=f"^'a' has {said}"):
        stored_validation(make("a", predictions=Predictions(splits)))
    found = stored_validation(make("b"))
    assert (found.fingerprint, len(found.labels)) == (VAL.fingerprint, 20)


def test_data_must_be_the_parents(make: Make) -> None:
    card = make("a").card
    check_data(card, PART, VAL, "there")
    with pytest.raises(
        DataError, match=r"^there is not the data of 'a': it was trained on other images \(fingerprint "
    ):
        check_data(card, random_split(30, seed=3), VAL, "there")
    with pytest.raises(DataError, match=r"^there is not the data of 'a': it held out other images \(fingerprint "):
        check_data(card, PART, random_split(20, seed=3), "there")
    renamed = dataclasses.replace(PART, classes=PART.classes[::-1])
    with pytest.raises(DataError, match=r"^there has other classes than 'a': give the data that it was trained on$"):
        check_data(card, renamed, VAL, "there")


def test_card_is_the_parents_and_names_them(make: Make) -> None:
    parents = [make("b", recipe="toy", seed=3, architecture_args={"widths": [8]}), make("a", recipe="toy", seed=3)]
    card = soup_card("broth", parents, {"weights": "the mean"})
    common = ("architecture", "architecture_args", "dataset", "classes", "mean", "std", "input_size", "trained_on")
    assert all(getattr(card, field) == getattr(parents[0].card, field) for field in common)
    assert (card.name, card.recipe, card.seed, card.metrics) == ("broth", "toy", 3, {})
    sums = [hashlib.sha256((p.folder / "model.safetensors").read_bytes()).hexdigest() for p in parents]
    assert card.training.keys() == {"weights", "parents", "versions"}
    assert card.training["weights"] == "the mean"
    assert card.training["parents"] == [f"b@{sums[0]}", f"a@{sums[1]}"]
    assert Card.from_json(card.to_json(), "here").to_json() == card.to_json()


@pytest.mark.parametrize("other", [{"recipe": "toy", "seed": 4}, {"recipe": "else", "seed": 3}, {}])
def test_parents_of_several_runs_have_no_recipe_in_common(make: Make, other: dict[str, Any]) -> None:
    card = soup_card("broth", [make("a", recipe="toy", seed=3), make("b", **other)], {})
    assert (card.recipe, card.seed) == (None, None)
