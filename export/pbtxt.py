"""Protobuf's text format, as far as configurations use it: https://protobuf.dev/reference/protobuf/textformat-spec."""

import ast
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Enum", "parse_text", "to_text"]

_TOKEN = re.compile(
    r"""\#[^\n]* | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | [{}\[\]<>:,;] | [^\s{}\[\]<>:,;"'\#]+""", re.VERBOSE
)
_OPEN = {"{": "}", "<": ">"}


class Enum(str):
    """A value of an enumeration, which is written without quotes."""

    __slots__ = ()


def to_text(fields: Mapping[str, Any], indent: str = "") -> str:
    """Return fields in protobuf's text format.

    Args:
        fields: name -> value, in the order of the text. A mapping is a message, a list a repeated field.
        indent: of every line.
    """
    lines = []
    for name, value in fields.items():
        repeated = isinstance(value, list)
        if repeated and not any(isinstance(item, dict) for item in value):
            lines.append(f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n")
            continue
        for item in value if repeated else [value]:
            if isinstance(item, dict):
                lines.append(f"{indent}{name} {{\n{to_text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Enum):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value)


def parse_text(text: str) -> dict[str, list[Any]]:
    """Return what is in protobuf's text format: field -> its values, each a text or, for a message, such a mapping.

    Raises:
        ValueError: it is not in that format.
    """
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("#")]
    if re.sub(r"\s", "", _TOKEN.sub("", text)):
        raise ValueError("a text without its end")
    fields, rest = _message(tokens, 0, None)
    if rest != len(tokens):
        raise ValueError("a message that was never begun ends")
    return fields


def _message(tokens: list[str], at: int, end: str | None) -> tuple[dict[str, list[Any]], int]:
    """Return the fields of a message whose first token is at a position, and the position of what comes after it."""
    fields: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at] != end:
        name, at = tokens[at], at + 1
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"{name!r} is no field")
        values, at = _values(tokens, at + (tokens[at : at + 1] == [":"]))
        fields.setdefault(name, []).extend(values)
        at += tokens[at : at + 1] in ([","], [";"])
    if end is not None and at >= len(tokens):
        raise ValueError("a message does not end")
    return fields, at + (end is not None)


def _values(tokens: list[str], at: int) -> tuple[list[Any], int]:
    """Return the values of a field, one or a list, and the position of what comes after them."""
    if at >= len(tokens):
        raise ValueError("a field has no value")
    first = tokens[at]
    if first in _OPEN:
        message, at = _message(tokens, at + 1, _OPEN[first])
        return [message], at
    if first == "[":
        found, at = list[Any](), at + 1
        while tokens[at : at + 1] != ["]"]:
            values, at = _values(tokens, at)
            found += values
            at += tokens[at : at + 1] == [","]
        return found, at + 1
    if first in {"}", ">", "]", ":", ",", ";"}:
        raise ValueError(f"a value is expected before {first!r}")
    parts, quoted = [first], first[0] in "\"'"
    while quoted and at + 1 < len(tokens) and tokens[at + 1][0] in "\"'":  # as in C, texts that follow are one
        at += 1
        parts.append(tokens[at])
    return ["".join(map(_unquoted, parts)) if quoted else first], at + 1


def _unquoted(token: str) -> str:
    try:
        return str(ast.literal_eval(token))  # its escapes are those of C, as Python's
    except SyntaxError as error:
        raise ValueError(f"{token} has an unknown escape") from error
