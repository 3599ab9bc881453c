"""The model card, read back with the Hub's own reader."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from tests.zoo.conftest import sample_card
from zoo.card import Card
from zoo.metrics import METRICS, decode_metrics
from zoo.model_card import card_text, model_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.entry import Entry

CARD = sample_card(
    "fastnet-seed1",
    recipe="quick",
    seed=7,
    input_size=(24, 48),
    trained_on={"images": 45_000, "fingerprint": "ab", "held_out": "cd"},
    metrics={"val": {"none": 1}, "test": {"flip": 0.9, "none": 0.93456}},
    parameters=1_972_792,
    multiply_adds=118_147_360,
    training={"epochs": 10, "device": "2 CPU cores"},
)


def metadata(card: Card) -> dict[str, Any]:
    """Return the metadata block as the Hub's client reads it."""
    found: dict[str, Any] = ModelCard(model_card(card)).data.to_dict()  # type: ignore[no-untyped-call]
    return found


def test_the_metadata_is_the_hubs(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(CARD), encoding="utf-8")
    found = metadata_load(path)
    assert found is not None
    results = found.pop("model-index")
    assert found == {
        "license": "apache-2.0",
        "library_name": "menagerie",
        "pipeline_tag": "image-classification",
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy"],
        "tags": ["menagerie", "fastnet", "cifar10"],
    }
    name, read = model_index_to_eval_results(results)
    assert name == "fastnet-seed1"
    assert {(r.task_type, r.dataset_type, r.dataset_name, r.metric_type) for r in read} == {
        ("image-classification", "uoft-cs/cifar10", "CIFAR-10", "accuracy")
    }
    assert [(r.dataset_split, r.metric_value, r.metric_name) for r in read] == [
        ("test", 0.93456, "top-1 accuracy"),
        ("test", 0.9, "top-1 accuracy, mean of the image and its mirror image"),
        ("validation", 1, "top-1 accuracy"),
    ]
    loaded = ModelCard.load(path)
    assert loaded.data.to_dict()["model-index"] == results


def test_every_result_has_what_the_hub_requires() -> None:
    (index,) = metadata(CARD)["model-index"]
    assert len(index["results"]) == 2, "one a split"
    for result in index["results"]:  # the required fields of hub-docs/modelcard.md
        assert result["task"]["type"]
        assert result["dataset"]["type"]
        assert result["dataset"]["name"]
        assert all(metric["type"] and isinstance(metric["value"], float | int) for metric in result["metrics"])


def test_without_figures_there_is_no_model_index() -> None:
    found = metadata(sample_card())
    assert found.keys() == {"license", "library_name", "pipeline_tag", "datasets", "metrics", "tags"}
    assert "| split |" not in card_text(sample_card())


@pytest.mark.parametrize(("license", "said"), [("mit", "mit"), (None, "unknown")])
def test_license(license: str | None, said: str) -> None:  # noqa: A002
    card = sample_card(license=license)
    assert metadata(card)["license"] == said
    assert f"- license: {license or 'not known'}\n" in card_text(card)


@pytest.mark.parametrize(
    ("dataset", "ids", "kind", "name"),
    [
        ("cifar100", ["uoft-cs/cifar100"], "uoft-cs/cifar100", "CIFAR-100"),
        ("team/flowers", ["team/flowers"], "team/flowers", "team/flowers"),
        ("my photos", None, "imagefolder", "my photos"),
        ("x\n---\ny: [", None, "imagefolder", "x\n---\ny: ["),
        ("x.git", None, "imagefolder", "x.git"),
    ],
)
def test_datasets(dataset: str, ids: list[str] | None, kind: str, name: str) -> None:
    found = metadata(sample_card(dataset=dataset, metrics={"test": {"none": 0.5}}))
    assert found.get("datasets") == ids
    assert found["model-index"][0]["results"][0]["dataset"] == {"type": kind, "name": name, "split": "test"}


@given(st.text(st.sampled_from("aB9-_./ é"), min_size=1, max_size=8))
@example("a" * 96)
@example("a" * 97)
@example("a" * 96 + "/" + "b" * 96)
@example("a" * 97 + "/b")
@example("a.git")
@example("_a_")
def test_dataset_ids_are_what_the_hubs_client_takes(dataset: str) -> None:
    try:
        validate_repo_id(dataset)
        valid = True
    except HFValidationError:
        valid = False
    assert metadata(sample_card(dataset=dataset)).get("datasets") == ([dataset] if valid else None)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], include_characters="\n\t\x1b"), max_size=20))
@example("---\nlicense: mit\n---\n")
@example("null")
def test_whatever_a_card_says_the_metadata_stays_whole(text: str) -> None:
    card = sample_card(dataset=text, architecture=text, metrics={text: {text: 0.5}}, training={"parents": [text]})
    found = metadata(card)
    (index,) = found["model-index"]
    assert index["results"][0]["dataset"].get("split", "") == {"val": "validation"}.get(text, text)
    assert set(found["tags"]) <= {"menagerie", "soup", text}
    assert found["license"] == "apache-2.0"


def test_the_text_says_what_the_card_says() -> None:
    text = ModelCard(model_card(CARD)).text
    assert text.lstrip() == card_text(CARD)
    assert text.lstrip().startswith("# fastnet-seed1\n")
    for part in (
        "`fastnet`, 1,972,792 parameters, 0.118 G multiply-adds for one 24 x 48 image",
        "10 classes (cifar10)",
        "recipe `quick`, seed 7, on 45,000 images; the validation split was held out",
        "\n- device: 2 CPU cores\n- epochs: 10\n",
        "\n| test | none | 93.46 % |\n| test | flip | 90.00 % |\n| val | none | 100.00 % |\n",
        'zoo.load("fastnet-seed1")',
    ):
        assert part in text


@pytest.mark.parametrize(
    ("training", "line"),
    [
        ({"seconds": 59}, "- time: 59 s\n"),
        ({"seconds": 1005}, "- time: 16 min 45 s\n"),
        ({"seconds": 119.6}, "- time: 2 min 0 s\n"),
        ({"seconds": 7283}, "- time: 2 h 1 min\n"),
        ({"seconds": float("inf")}, "- time: inf\n"),
        ({"seconds": "long"}, "- time: long\n"),
        ({"overrides": ["epochs=3", "optimizer.lr=0.1"]}, "- overrides: `epochs=3`, `optimizer.lr=0.1`\n"),
        ({"teacher": "big@0123"}, "- teacher: big@0123\n"),
        (
            {
                "teacher": {
                    "members": [{"name": "a", "weight": 1.0}, {"name": "b"}, "c"],
                    "views": "flip",
                    "fitted_on": None,
                }
            },
            "- teacher: `a`, `b` (views flip)\n",
        ),
        ({"teacher": {"members": 3}}, "- teacher: {'members': 3}\n"),
        ({"hard_share": 0.0}, "- share of the labels in the loss: 0.0\n"),
        ({"note": "{name} {0}"}, "- note: {name} {0}\n"),
    ],
    ids=str,
)
def test_training_details(training: dict[str, Any], line: str) -> None:
    assert line in card_text(sample_card(training=training))


def test_a_soup_names_its_parents() -> None:
    card = sample_card(training={"parents": ["a-seed1", "a-seed2"]})
    assert "- average of the weights of: `a-seed1`, `a-seed2`\n" in card_text(card)
    assert "soup" in metadata(card)["tags"]


def test_an_unknown_training_set_is_said() -> None:
    text = model_card(sample_card())
    assert "What it was trained on is not known, so it cannot take part in a fit." in text
    assert "held out" not in text


@pytest.mark.usefixtures("package")
def test_the_example_runs(tmp_path: Path, make_entry: "Callable[..., Entry]", monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(tmp_path / "shelf", "tiny-seed1")
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    code = (entry.folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()):
        exec(code, names)  # noqa: S102  # it is ours
    assert names["probs"].shape == (1, 10)
    assert torch.allclose(names["probs"].sum(), torch.tensor(1.0))


BUILTIN = sorted((Path(__file__).parents[2] / "zoo" / "builtin").iterdir())


@pytest.mark.parametrize("folder", BUILTIN, ids=lambda folder: folder.name)
def test_what_the_package_ships_is_up_to_date(folder: Path) -> None:
    config, readme = ((folder / name).read_text(encoding="utf-8") for name in ("config.json", "README.md"))
    card = Card.from_json(config, folder.name)
    assert card.to_json() == config
    shipped = ModelCard(readme)
    assert shipped.text.lstrip() == card_text(card)
    assert shipped.data.to_dict() == metadata(card)  # type: ignore[no-untyped-call]
    rows = decode_metrics((folder / METRICS).read_bytes(), folder.name)
    assert len(rows) == card.training["epochs"]
    assert rows[-1]["val_accuracy"] == pytest.approx(card.accuracy("val", "none"), abs=0.002)  # fp16 beside bf16
