"""The card of a zoo entry: `config.json`.

Beside the fields of `Card`, the file has what readers of timm's `config.json` look for: `num_classes`, `label_names`,
`model_args` and `pretrained_cfg` (timm 1.0.31, `save_config_for_hf` in `timm/models/_hub.py`). They are derived: a card
is read from its own fields, and refused if the others contradict them. Cards from before have none of them.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from zoo.errors import CorruptError, UsageError
from zoo.header import unique
from zoo.names import check_name

__all__ = ["EXTERNAL", "FORMAT", "Card"]

FORMAT = "menagerie.entry/1"

EXTERNAL = "external"
"""The architecture that the card of an entry without weights states: someone else's predictions."""

_CHANNELS = 3
_MOST = 1 << 63
_DEEPEST = 16
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Card:
    """What is known of an entry without loading its weights.

    Attributes:
        name: the entry's name.
        architecture: a key of `zoo.archs.ARCHS`.
        architecture_args: arguments that differ from the variant's.
        dataset: what it classifies, e.g. `cifar10`.
        classes: the C class names, in the order of the logits.
        mean: per channel, of the training images, in units of 0..1.
        std: per channel, likewise.
        input_size: (height, width) in pixels.
        recipe: the training recipe's name.
        seed: the training seed.
        trained_on: `images` and `fingerprint` of the training part, and `held_out`, the fingerprint of the validation
            split that it excludes. None if it is not known; such a member cannot take part in a fit.
        metrics: split -> view set -> top-1 accuracy as a fraction.
        parameters: number of parameters.
        multiply_adds: for one image of `input_size`.
        training: `epochs`, `seconds`, `device` and `versions`, for people; a soup's `parents`.
        license: of the weights, by the Hub's identifier (https://hf.co/docs/hub/repositories-licenses); None if it is
            not known, as of weights that someone else trained and said nothing about.
    """

    name: str
    architecture: str
    dataset: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int]
    recipe: str | None = None
    seed: int | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parameters: int = 0
    multiply_adds: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = "apache-2.0"

    def to_json(self) -> str:
        """Return the text of `config.json`: sorted keys, so that equal cards are equal files."""
        table = {"format": FORMAT, **asdict(self), **_timm_keys(self)}
        return json.dumps(table, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Read `config.json`; `where` names the file in errors.

        Raises:
            CorruptError: the text is not a card of this format.
        """
        try:
            table: dict[str, Any] = json.loads(text, object_pairs_hook=unique)
            found = table.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{where} is not the card of a zoo entry") from error
        if found != FORMAT:
            raise CorruptError(f"{where} has the format {str(found)[:40]!r}, this version reads {FORMAT!r}")
        if not _is_shallow(table):
            raise CorruptError(f"{where} is nested deeper than a card is")
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in known}
        try:
            card = cls(**values)
            card._check()
            _check_agreement(card, table)
        except (TypeError, ValueError, UsageError) as error:
            raise CorruptError(f"{where} is malformed: {error}") from error
        return card

    @classmethod
    def of(cls, name: str, content: bytes, where: str) -> "Card":
        """Read the bytes of an entry's `config.json`; errors as in `from_json`, also if it is another entry's."""
        try:
            card = cls.from_json(content.decode("utf-8"), where)
        except UnicodeDecodeError as error:
            raise CorruptError(f"{where} is not the card of a zoo entry") from error
        if card.name != name:
            raise CorruptError(f"{where} is the card of {card.name!r}, not of {name!r}")
        return card

    def _check(self) -> None:
        """Raise `ValueError` if a field that code relies on has the wrong type."""
        check_name(self.name)
        numbers = (*self.mean, *self.std)
        for what, ok in {
            "classes": type(self.classes) is tuple
            and len(self.classes) > 1
            and all(type(c) is str for c in self.classes),
            "architecture": type(self.architecture) is str,
            "architecture_args": type(self.architecture_args) is dict,
            "dataset": type(self.dataset) is str,
            "mean and std": len(self.mean) == len(self.std) == _CHANNELS and all(_is_number(v) for v in numbers),
            "std": min(self.std) > 0,
            "input_size": len(self.input_size) == len("HW") and all(type(v) is int and v > 0 for v in self.input_size),
            "trained_on": self.trained_on is None or _says_images(self.trained_on),
            "metrics": type(self.metrics) is dict
            and all(type(m) is dict and all(map(_is_fraction, m.values())) for m in self.metrics.values()),
            "training": type(self.training) is dict,
            "recipe": self.recipe is None or type(self.recipe) is str,
            "seed": self.seed is None or type(self.seed) is int,
            "parameters": type(self.parameters) is int and 0 <= self.parameters < _MOST,
            "multiply_adds": type(self.multiply_adds) is int and 0 <= self.multiply_adds < _MOST,
            "license": self.license is None or (type(self.license) is str and _LICENSE.fullmatch(self.license)),
        }.items():
            if not ok:
                raise ValueError(f"{what} is not what a card has there")

    def accuracy(self, split: str = "test", views: str = "flip") -> float | None:
        """Return the top-1 accuracy (fraction) that the card states for a split and view set, if it does."""
        value = self.metrics.get(split, {}).get(views)
        return float(value) if value is not None else None


def _timm_keys(card: Card) -> dict[str, Any]:
    """Return what timm's `config.json` has and the card does not, by the same names and at the same places."""
    return {
        "num_classes": len(card.classes),
        "label_names": list(card.classes),
        "model_args": dict(card.architecture_args),
        "pretrained_cfg": {
            "num_classes": len(card.classes),
            "input_size": [_CHANNELS, *card.input_size],
            "mean": list(card.mean),
            "std": list(card.std),
            "interpolation": "bicubic",  # how `zoo.data.pictures` fits a picture, this and the next two
            "crop_pct": 1.0,
            "crop_mode": "center",
            **({"license": card.license} if card.license else {}),
        },
    }


def _check_agreement(card: Card, table: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a file's timm keys, as far as it has them, contradict its card."""
    wanted = _timm_keys(card)
    inner = table.get("pretrained_cfg", {})
    if type(inner) is not dict:
        raise ValueError("pretrained_cfg is not what a card has there")
    said = [(key, table[key], wanted[key]) for key in ("num_classes", "label_names", "model_args") if key in table]
    said += [
        (f"pretrained_cfg.{key}", inner[key], wanted["pretrained_cfg"][key])
        for key in ("num_classes", "input_size", "mean", "std")
        if key in inner
    ]
    for key, found, expected in said:
        if found != expected:
            raise ValueError(f"{key} does not agree with the rest of the card")


def _is_number(value: Any) -> bool:  # noqa: ANN401  # whatever JSON has
    """Say whether `value` is a number that a float can hold, and not NaN."""
    return type(value) in {int, float} and abs(value) <= sys.float_info.max


def _is_shallow(value: Any, levels: int = _DEEPEST) -> bool:  # noqa: ANN401  # whatever JSON has
    """Say whether lists and tables are nested so little that copying or printing them cannot exhaust the stack."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _is_fraction(value: Any) -> bool:  # noqa: ANN401  # whatever JSON has
    return _is_number(value) and 0 <= value <= 1


def _says_images(trained_on: object) -> bool:
    """Say whether `trained_on` has what fits and model cards read from it."""
    return (
        type(trained_on) is dict
        and type(trained_on.get("images")) is int
        and {type(trained_on.get(key)) for key in ("fingerprint", "held_out")} == {str}
    )
