"""The card: a round trip through `config.json`, and everything that is not one."""

import json
from typing import Any

import pytest

from tests.conftest import CLASSES
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


DERIVED = ("num_classes", "label_names", "model_args", "pretrained_cfg")
"""Keys beside the card's own, as timm has them."""


def own() -> dict[str, Any]:
    """Return the table of a card's own fields, as cards were before timm's keys were added."""
    return {key: value for key, value in json.loads(FULL.to_json()).items() if key not in DERIVED}


def changed(**changes: Any) -> str:  # noqa: ANN401  # fields of the card
    return json.dumps(own() | changes)


@pytest.mark.parametrize("card", [FULL, sample_card(), sample_card(license=None)], ids=["full", "sparse", "unknown"])
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


def test_a_card_from_before_is_read() -> None:
    table = own()
    del table["license"]
    assert Card.from_json(json.dumps(table), "here") == FULL


def test_timms_keys() -> None:
    table = json.loads(FULL.to_json())
    assert (table["architecture"], table["num_classes"]) == ("fastnet", 10)
    assert table["label_names"] == table["classes"]
    assert table["model_args"] == {"widths": [8, 8, 8]}
    assert table["pretrained_cfg"] == {
        "num_classes": 10,
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "license": "apache-2.0",
    }
    tall = json.loads(sample_card(input_size=(24, 48), license=None).to_json())["pretrained_cfg"]
    assert tall["input_size"] == [3, 24, 48]
    assert "license" not in tall


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 100},
        {"label_names": [*CLASSES[1:], CLASSES[0]]},
        {"model_args": {}},
        {"pretrained_cfg": {"input_size": [3, 32, 33]}},
        {"pretrained_cfg": {"input_size": [32, 32, 3]}},
        {"pretrained_cfg": {"mean": [0.5, 0.4, 0.31]}},
        {"pretrained_cfg": {"std": [0.25, 0.2]}},
        {"pretrained_cfg": {"num_classes": 9}},
        {"pretrained_cfg": [1]},
        {"pretrained_cfg": None},
    ],
    ids=str,
)
def test_what_is_said_twice_must_agree(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match=r"malformed: .*(pretrained_cfg|num_classes|label_names|model_args)"):
        Card.from_json(changed(**changes), "config.json")


def test_more_of_timms_keys_are_skipped() -> None:
    more = {"pretrained_cfg": {"crop_pct": 0.5, "url": "x", "mean": [0.5, 0.4, 0.3]}, "num_features": 512}
    assert Card.from_json(changed(**more), "here") == FULL


def nested(levels: int) -> Any:  # noqa: ANN401
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    assert Card.from_json(changed(training={"a": nested(10)}), "here").training["a"] == nested(10)
    for field in ("training", "architecture_args"):
        with pytest.raises(CorruptError, match="nested deeper than a card is"):
            Card.from_json(changed(**{field: {"a": nested(400)}}), "config.json")


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
        {"parameters": -1},
        {"parameters": 10**400},
        {"multiply_adds": "many"},
        {"multiply_adds": 1 << 63},
        {"recipe": ["fastnet"]},
        {"seed": "1"},
        {"license": ""},
        {"license": "Apache 2.0"},
        {"license": "a: b"},
        {"license": ["mit"]},
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
