"""The model card people read: `README.md` of an entry, with the metadata block of the Hugging Face Hub."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.card import Card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["DATASET_IDS", "card_text", "model_card"]

DATASET_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Datasets that the Hub has under another name than ours."""

_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_TASK = "image-classification"
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ID = re.compile(r"(?!.*(--|\.\.))(\w([\w.-]{,94}\w)?/)?\w([\w.-]{,94}\w)?", re.ASCII)
"""What the Hub takes for the id of a repository, with or without its owner; see `validate_repo_id` of its client."""

_METRICS = {"none": "top-1 accuracy", "flip": "top-1 accuracy, mean of the image and its mirror image"}
_SAID = {
    "seconds": "time",
    "images_per_second": "images a second",
    "parents": "average of the weights of",
    "distill_temperature": "temperature of the distillation",
    "hard_share": "share of the labels in the loss",
}
_ENDLESS = 1e12
"""Seconds; what claims to have taken longer is shown as it is."""


def model_card(card: Card) -> str:
    """Return the text of `README.md`: the metadata, and `card_text`.

    The metadata is written by the Hub's own client (huggingface_hub's `ModelCardData`), which is what reads it.
    """
    from huggingface_hub import ModelCardData  # noqa: PLC0415  # `zoo info` shows a card without it

    known, results = _dataset_id(card.dataset), _results(card)
    tags = [card.architecture, card.dataset, *(["soup"] if card.training.get("parents") else [])]
    data = ModelCardData(
        license=card.license or "unknown",
        library_name="menagerie",
        pipeline_tag=_TASK,
        datasets=[known] if known else None,
        metrics=["accuracy"],
        tags=["menagerie", *(tag for tag in tags if _PLAIN.fullmatch(tag))],
        model_name=card.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{card_text(card)}"


def card_text(card: Card) -> str:
    """Return the Markdown text of a card, without metadata."""
    height, width = card.input_size
    size = f"{card.parameters:,} parameters, {card.multiply_adds / 1e9:.3f} G multiply-adds"
    task = f"{len(card.classes)} classes ({card.dataset})"
    parts = [
        f"# {card.name}",
        f"`{card.architecture}`, {size} for one {height} x {width} image,\n{task}.",
        *_accuracy(card),
        "## Use",
        _USAGE.format(name=card.name),
        *([_STORED.format(name=card.name)] if card.metrics else []),
        "## Training",
        _training(card),
    ]
    return "\n\n".join(parts)


_USAGE = """\
```python
import torch, zoo
from zoo.images import normalize

net, card = zoo.load("{name}")  # a torch.nn.Module in eval mode
images = torch.zeros(1, *card.input_size, 3, dtype=torch.uint8)  # yours: RGB, [N, H, W, 3]
probs = net(normalize(images, card.mean, card.std)).softmax(1)  # [N, classes], in the order of card.classes
```"""

_STORED = """\
In an ensemble: `ensemble eval --members {name} --tta flip`. The logits behind the table are stored beside the weights;
`zoo verify {name} --predictions` runs the network and compares."""


def _figures(card: Card) -> list[tuple[str, str, float]]:
    """Return (split, views, accuracy), the test split first, and in it the plain image."""
    found = [(split, views, value) for split, by_view in card.metrics.items() for views, value in by_view.items()]
    return sorted(found, key=lambda figure: (figure[0] != "test", figure[0], figure[1] != "none", figure[1]))


def _accuracy(card: Card) -> list[str]:
    """Return the paragraphs on accuracy; none if the card states no figure."""
    rows = [f"| {split} | {views} | {100 * value:.2f} % |" for split, views, value in _figures(card)]
    table = "\n".join(["| split | views | top-1 accuracy |", "|---|---|---|", *rows])
    return [table, "`flip` is the mean probability of the image and its mirror image."] if rows else []


def _training(card: Card) -> str:
    """Return what is known of the training, as a paragraph and a list."""
    if card.trained_on is None:
        trained = "What it was trained on is not known, so it cannot take part in a fit."
    else:
        how = f"with recipe `{card.recipe}`, seed {card.seed}, " if card.recipe else ""
        images = f"{card.trained_on['images']:,} images"
        trained = f"Trained {how}on {images}; the validation split was held out."
    lines = [f"- {_SAID.get(key, key)}: {_said(key, value)}" for key, value in sorted(card.training.items())]
    lines.append(f"- license: {card.license or 'not known'}")
    return f"{trained}\n\n" + "\n".join(lines) + "\n"


def _said(key: str, value: object) -> str:
    """Return how a value of `Card.training` reads."""
    if key == "seconds" and isinstance(value, int | float) and 0 <= value < _ENDLESS:
        return _duration(value)
    if isinstance(value, list | tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, dict) and isinstance(value.get("members"), list):
        return _committee(value)
    return str(value)


def _committee(about: Mapping[str, Any]) -> str:
    """Return which members a teacher has, by name, and what else is said of it in a word or a number."""
    names = [f"`{member['name']}`" for member in about["members"] if isinstance(member, dict) and "name" in member]
    rest = [f"{key} {value}" for key, value in sorted(about.items()) if type(value) in {str, int, float}]
    return f"{', '.join(names)} ({', '.join(rest)})"


def _duration(seconds: float) -> str:
    """Return a time to the second, or to the minute from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _results(card: Card) -> "list[EvalResult]":
    """Return the accuracies as the Hub's `model-index` has them: fractions, a result for each split."""
    from huggingface_hub import EvalResult  # noqa: PLC0415

    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=_dataset_id(card.dataset) or "imagefolder",  # as the Hub calls images that are not on it
            dataset_name=_TITLES.get(card.dataset, card.dataset),
            dataset_split={"val": "validation"}.get(split, split),
            metric_type="accuracy",
            metric_name=_METRICS.get(views, f"top-1 accuracy, views {views}"),
            metric_value=value,
        )
        for split, views, value in _figures(card)
    ]


def _dataset_id(dataset: str) -> str | None:
    """Return the id that the Hub knows a dataset by, or None if ours cannot be one."""
    found = DATASET_IDS.get(dataset, dataset)
    return found if _ID.fullmatch(found) and not found.endswith(".git") else None
