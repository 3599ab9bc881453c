"""Fields of a lockfile's tables, each of the type it must have, or a line that says what is wrong with which.

All functions take the table, the key and, for the message, whose field it is, and raise `ValueError`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from zoo.files import is_digest

__all__ = ["choice", "digest", "items", "number", "table_of", "text", "texts"]

_SHOWN = 40  # characters of what somebody wrote into a file


def table_of(value: object, of: str) -> dict[str, Any]:
    """Return a value that must be a table."""
    if not isinstance(value, dict):
        raise ValueError(f"{of}: {_short(value)} is not a table")  # noqa: TRY004  # it is the file's fault
    return value


def items(table: Mapping[str, Any], key: str, of: str) -> list[Any]:
    """Return a field that must be a list with something in it."""
    value = _field(table, key, of)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} of {of}: {_short(value)} is not a list with something in it")
    return value


def number(table: Mapping[str, Any], key: str, of: str, low: float, high: float) -> float:
    """Return a field that must be a number in a range, both ends included."""
    value = _field(table, key, of)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} of {of}: {_short(value)} is not a number")  # noqa: TRY004
    if not low <= value <= high:  # nor is NaN
        raise ValueError(f"{key} of {of}: {_short(value)} is not from {low:g} to {high:g}")
    return float(value)


def text(table: Mapping[str, Any], key: str, of: str) -> str:
    """Return a field that must be text with something in it."""
    value = _field(table, key, of)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} of {of}: {_short(value)} is not text with something in it")
    return value


def texts(table: Mapping[str, Any], key: str, of: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts, at least one."""
    found = items(table, key, of)
    for one in found:
        if not isinstance(one, str):
            raise ValueError(f"{key} of {of}: {_short(one)} is not text")  # noqa: TRY004
    return tuple(found)


def choice(table: Mapping[str, Any], key: str, of: str, known: Iterable[str]) -> str:
    """Return a field that must be one of a few words."""
    value, there_are = _field(table, key, of), list(known)
    if not isinstance(value, str) or value not in there_are:
        raise ValueError(f"{key} of {of}: {_short(value)} is not one of {', '.join(there_are)}")
    return value


def digest(table: Mapping[str, Any], key: str, of: str) -> str:
    """Return a field that must be a sha256 in hexadecimal digits."""
    value = text(table, key, of)
    if not is_digest(value):
        raise ValueError(f"{key} of {of}: {_short(value)} is not 64 hexadecimal digits")
    return value


def _field(table: Mapping[str, Any], key: str, of: str) -> Any:  # noqa: ANN401  # whatever JSON has
    """Return a field that must be there."""
    if key not in table:
        raise ValueError(f"{of} has no {key!r}")
    return table[key]


def _short(value: object) -> str:
    """Return a value as Python writes it, cut where it becomes long."""
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
