"""The model card, read back with the Hub's own reader."""

from huggingface_hub import ModelCard

from tests.zoo.conftest import sample_card
from zoo.model_card import model_card

CARD = sample_card(
    "fastnet-seed1",
    recipe="quick",
    seed=7,
    input_size=(24, 48),
    trained_on={"images": 45_000, "fingerprint": "ab", "held_out": "cd"},
    metrics={"test": {"none": 0.93456, "flip": 0.9}, "val": {"none": 1}},
    parameters=1_972_792,
    multiply_adds=118_147_360,
    training={"epochs": 10, "device": "2 CPU cores"},
)


def test_the_metadata_is_the_hubs() -> None:
    data = ModelCard(model_card(CARD)).data.to_dict()  # type: ignore[no-untyped-call]
    assert data == {
        "license": "apache-2.0",
        "library_name": "menagerie",
        "pipeline_tag": "image-classification",
        "datasets": ["cifar10"],
    }


def test_the_text_says_what_the_card_says() -> None:
    text = ModelCard(model_card(CARD)).text
    assert text.startswith("# fastnet-seed1\n")
    for part in (
        "`fastnet`, 1,972,792 parameters, 0.118 G multiply-adds for one 24 x 48 image",
        "10 classes (cifar10)",
        "recipe `quick`, seed 7, on 45,000 images; the validation split was held out",
        "\n- device: 2 CPU cores\n- epochs: 10\n",
        "\n| test | none | 93.46 % |\n| test | flip | 90.00 % |\n| val | none | 100.00 % |\n",
        'zoo.load("fastnet-seed1")',
    ):
        assert part in text


def test_an_unknown_training_set_is_said() -> None:
    text = model_card(sample_card())
    assert "What it was trained on is not known, so it cannot take part in a fit." in text
    assert "held out" not in text


def test_braces_are_text() -> None:
    assert "- note: {name} {0}\n" in model_card(sample_card(training={"note": "{name} {0}"}))
