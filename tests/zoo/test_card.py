"""The card: a round trip through `config.json`, and everything that is not one."""

import json
from typing import Any

import pytest

from tests.zoo.conftest import sample_card
from zoo.card import FORMAT, Card
from zoo.errors import CorruptError

HEX = "ab" * 32
TRAINED_ON = {"images": 45_000, "fingerprint": HEX, "held_out": HEX}
FULL = sample_card(
    "fastnet-seed1",
    architecture_args={"widths": [8, 8, 8]},
    recipe="fastnet",
    seed=1,
    trained_on=TRAINED_ON,
    metrics={"test": {"none": 0.93, "flip": 1}, "val": {}},
    parameters=1_972_792,
    multiply_adds=118_147_360,
    training={"epochs": 10, "device": "CPU"},
)


def changed(**changes: Any) -> str:  # noqa: ANN401  # fields of the card
    return json.dumps(json.loads(FULL.to_json()) | changes)


@pytest.mark.parametrize("card", [FULL, sample_card()], ids=["full", "sparse"])
def test_round_trip(card: Card) -> None:
    assert Card.from_json(card.to_json(), "here") == card


def test_the_text_is_sorted_json_with_its_format() -> None:
    text = FULL.to_json()
    table = json.loads(text)
    assert table["format"] == FORMAT == "menagerie.entry/1"
    assert list(table) == sorted(table)
    assert (table["name"], table["std"], table["input_size"]) == ("fastnet-seed1", [0.25, 0.2, 0.1], [32, 32])
    assert table["trained_on"] == TRAINED_ON
    assert text.endswith("}\n")


def test_equal_cards_are_equal_texts() -> None:
    one = sample_card(training={"a": 1, "b": 2}, metrics={"test": {"none": 0.5}, "val": {}})
    two = sample_card(training={"b": 2, "a": 1}, metrics={"val": {}, "test": {"none": 0.5}})
    assert one.to_json() == two.to_json()


def test_fields_of_a_later_version_are_skipped() -> None:
    assert Card.from_json(changed(colour="red", licence=["x"]), "here") == FULL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"x"',
        "{}",
        '{"name": "x"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        "\0",
        "NaN",
    ],
    ids=lambda text: text[:8],
)
def test_not_a_card(text: str) -> None:
    with pytest.raises(CorruptError, match=r"config\.json is not the card of a zoo entry"):
        Card.from_json(text, "there/config.json")


@pytest.mark.parametrize("found", ["menagerie.entry/2", "x" * 100_000, None, ["menagerie.entry/1"]])
def test_another_format(found: object) -> None:
    with pytest.raises(CorruptError, match=r"config\.json has the format") as caught:
        Card.from_json(changed(format=found), "there/config.json")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc"},
        {"name": "a/b"},
        {"name": 3},
        {"classes": []},
        {"classes": ["one"]},
        {"classes": "text"},
        {"classes": 10},
        {"classes": [1, 2]},
        {"classes": [["a"], ["b"]]},
        {"mean": [0.5, 0.5]},
        {"mean": None},
        {"mean": [float("nan"), 0, 0]},
        {"mean": ["0.5", "0.5", "0.5"]},
        {"std": []},
        {"std": [0.2, 0, 0.2]},
        {"std": [0.2, -0.1, 0.2]},
        {"std": [0.2, float("nan"), 0.2]},
        {"std": [float("inf")] * 3},
        {"std": [True, True, True]},
        {"std": [10**400] * 3},
        {"input_size": [32]},
        {"input_size": [32, 0]},
        {"input_size": [32.0, 32.0]},
        {"input_size": 32},
        {"architecture": ["fastnet"]},
        {"architecture_args": [1]},
        {"dataset": None},
        {"trained_on": {}},
        {"trained_on": "cifar10"},
        {"trained_on": TRAINED_ON | {"images": "many"}},
        {"trained_on": TRAINED_ON | {"held_out": None}},
        {"trained_on": {"images": 1, "fingerprint": HEX}},
        {"metrics": [0.9]},
        {"metrics": {"test": 0.9}},
        {"metrics": {"test": {"flip": "0.9"}}},
        {"metrics": {"test": {"flip": None}}},
        {"metrics": {"test": {"flip": float("nan")}}},
        {"training": None},
        {"parameters": 1e99},
        {"multiply_adds": "many"},
    ],
    ids=str,
)
def test_malformed_fields(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match=r"config\.json is malformed"):
        Card.from_json(changed(**changes), "there/config.json")


@pytest.mark.parametrize("field", ["name", "architecture", "dataset", "classes", "mean", "std", "input_size"])
def test_a_missing_field(field: str) -> None:
    table = json.loads(FULL.to_json())
    del table[field]
    with pytest.raises(CorruptError, match=rf"malformed.*{field}"):
        Card.from_json(json.dumps(table), "config.json")


def test_every_truncation_is_corrupt() -> None:
    text = FULL.to_json().rstrip()
    for end in range(len(text)):
        with pytest.raises(CorruptError):
            Card.from_json(text[:end], "config.json")


def test_accuracy() -> None:
    assert FULL.accuracy() == 1.0
    assert isinstance(FULL.accuracy(), float)
    assert FULL.accuracy("test", "none") == 0.93
    assert FULL.accuracy("val") is None
    assert FULL.accuracy("other") is None
