"""The card of a zoo entry: `config.json`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from zoo.errors import CorruptError, UsageError
from zoo.names import check_name

__all__ = ["FORMAT", "Card"]

FORMAT = "menagerie.entry/1"
_CHANNELS = 3


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
        training: `epochs`, `seconds`, `device` and `versions`, for people.
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

    def to_json(self) -> str:
        """Return the text of `config.json`: sorted keys, so that equal cards are equal files."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Read `config.json`; `where` names the file in errors.

        Raises:
            CorruptError: the text is not a card of this format.
        """
        try:
            table: dict[str, Any] = json.loads(text)
            found = table.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{where} is not the card of a zoo entry") from error
        if found != FORMAT:
            raise CorruptError(f"{where} has the format {str(found)[:40]!r}, this version reads {FORMAT!r}")
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in known}
        try:
            card = cls(**values)
            card._check()
        except (TypeError, ValueError, UsageError) as error:
            raise CorruptError(f"{where} is malformed: {error}") from error
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
            and all(type(m) is dict and all(_is_number(v) for v in m.values()) for m in self.metrics.values()),
            "training": type(self.training) is dict,
            "parameters": type(self.parameters) is int,
            "multiply_adds": type(self.multiply_adds) is int,
        }.items():
            if not ok:
                raise ValueError(f"{what} is not what a card has there")

    def accuracy(self, split: str = "test", views: str = "flip") -> float | None:
        """Return the top-1 accuracy (fraction) that the card states for a split and view set, if it does."""
        value = self.metrics.get(split, {}).get(views)
        return float(value) if value is not None else None


def _is_number(value: Any) -> bool:  # noqa: ANN401  # whatever JSON has
    """Say whether `value` is a number that a float can hold, and not NaN."""
    return type(value) in {int, float} and abs(value) <= sys.float_info.max


def _says_images(trained_on: object) -> bool:
    """Say whether `trained_on` has what fits and model cards read from it."""
    return (
        type(trained_on) is dict
        and type(trained_on.get("images")) is int
        and {type(trained_on.get(key)) for key in ("fingerprint", "held_out")} == {str}
    )
