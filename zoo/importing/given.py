"""What no checkpoint says of a network and its owner has to: arguments, mean and std, the seed."""

import json
from collections.abc import Sequence
from typing import Any

from zoo.data import MEAN_STD
from zoo.errors import UsageError

__all__ = ["parse_arguments", "parse_stats", "seed_of"]

_CHANNELS = 3
_LEAST_STD = 1e-6
Channels = tuple[float, float, float]


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return an architecture's arguments from texts as `shakedrop=0.5`: JSON where it is, else text.

    Raises:
        UsageError: a text is not KEY=VALUE, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for item in pairs:
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier() or key in found:
            what = "gives a key twice" if key in found else "is not KEY=VALUE"
            raise UsageError(f"--arch-arg {item!r} {what}")
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def parse_stats(mean: str | None, std: str | None, dataset: str) -> tuple[Channels, Channels]:
    """Return mean and standard deviation per channel, in units of 0..1; the dataset's own where they are None.

    Args:
        mean: one number, or three separated by commas.
        std: likewise.
        dataset: whose usual constants to take.

    Raises:
        UsageError: not such numbers, or neither given nor known.
    """
    usual = MEAN_STD.get(dataset)
    if usual is None and (mean is None or std is None):
        raise UsageError(
            f"give --mean and --std: what the network's images of {dataset} were normalised by is not known"
        )
    of = usual or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return (
        of[0] if mean is None else _channels("--mean", mean, 0),
        of[1] if std is None else _channels("--std", std, _LEAST_STD),
    )


def _channels(option: str, text: str, least: float) -> Channels:
    try:
        numbers = [float(part) for part in text.split(",")]
        red, green, blue = numbers * _CHANNELS if len(numbers) == 1 else numbers
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is neither one number nor three with commas between") from error
    if not all(least <= number <= 1 for number in numbers):
        raise UsageError(f"{option} {text!r}: pixels count from 0 to 1 here; divide what is in 0..255 by 255")
    return red, green, blue


def seed_of(name: str) -> int | None:
    """Return the seed that an entry's name ends in, as `-seed7`, or None."""
    _, separator, number = name.rpartition("-seed")
    return int(number) if separator and number.isascii() and number.isdigit() else None
