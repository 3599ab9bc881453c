"""Members of an ensemble: zoo entries or prediction files, with weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import store
from zoo.entry import Entry
from zoo.errors import NotFoundError, UsageError

__all__ = ["FILE_SUFFIXES", "Member", "check_weight", "parse_members"]

FILE_SUFFIXES = (".safetensors", ".npz")
"""A member that ends so is a prediction file."""


@dataclass(frozen=True)
class Member:
    """One voter.

    Attributes:
        name: of the entry, or the path of the prediction file as it was given.
        origin: the entry, or the path of the prediction file.
        weight: in the merge; above 0, need not sum to 1 with the others'.
        temperature: its logits are divided by this; above 0.
    """

    name: str
    origin: Entry | Path
    weight: float = 1.0
    temperature: float = 1.0


def check_weight(value: float, name: str, what: str = "weight") -> float:
    """Return a member's weight (or temperature) if it is finite and above 0, else raise `UsageError`."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"the {what} of {name!r} is {value:g}; it must be a finite number above 0")
    return value


def parse_members(text: str) -> list[Member]:
    """Read `--members`: names, patterns and prediction files, separated by commas, each with an optional `=WEIGHT`.

    `fastnet-seed1,wrn*=0.5,other.npz=2` gives every entry that `wrn*` matches the weight 0.5.

    Raises:
        UsageError: no member, a member twice, a malformed name or weight.
        NotFoundError: no such entry or file, or a pattern that matches none.
    """
    members: list[Member] = []
    for item in (part.strip() for part in text.split(",")):
        if not item:
            raise UsageError(f"{text!r} has an empty item between its commas")
        word, separator, number = item.rpartition("=")
        word, weight = (word, _number(number, word)) if separator else (item, 1.0)
        members += [Member(name, origin, weight) for name, origin in _origins(word)]
    check_members(members)
    return members


def check_members(members: Sequence[Member]) -> None:
    """Raise `UsageError` if a member occurs twice."""
    seen: set[Path] = set()
    for member in members:
        place = member.origin.folder if isinstance(member.origin, Entry) else member.origin.resolve()
        if place in seen:
            raise UsageError(f"member {member.name!r} is named twice")
        seen.add(place)


def _number(text: str, name: str) -> float:
    try:
        return check_weight(float(text), name)
    except ValueError as error:
        raise UsageError(f"the weight of {name!r} is {text!r}, not a number") from error


def _origins(word: str) -> list[tuple[str, Entry | Path]]:
    """Return (name, entry or file) for each member that a word means."""
    if word.endswith(FILE_SUFFIXES):
        path = Path(word)
        if not path.is_file():
            raise NotFoundError(f"prediction file {word!r} does not exist")
        return [(word, path)]
    return [(entry.name, entry) for entry in store.resolve(word)]
