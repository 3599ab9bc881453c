"""Tables of plain text: as wide as their content in a pipe, fitted to a terminal without cutting figures."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Column", "layout", "printable"]

_GAP = "  "
_SHORTEST = 9
"""Characters of a cell that is cut, at least."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its header.
        cells: one for each row.
        right: whether it is aligned on the right, as numbers are.
        short: its header where there is little room, if another.
        spare: columns with a higher number are left out first where there is too little room; 0 never.
        cut: whether its cells may be cut where there is too little room; they keep their ends.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    short: str = ""
    spare: int = 0
    cut: bool = False

    def fitted(self, most: int | None, *, short: bool) -> list[str]:
        """Return header and cells, all of them equally long."""
        texts = [(self.short or self.title) if short else self.title, *(printable(cell) for cell in self.cells)]
        texts = [" ".join(text.split("\n")) for text in texts]
        if most is not None and self.cut:
            texts = [text if len(text) <= most else "…" + text[len(text) - most + 1 :] for text in texts]
        width = max(map(len, texts))
        return [text.rjust(width) if self.right else text.ljust(width) for text in texts]


def printable(text: str) -> str:
    """Return text that a terminal prints as it is: what others wrote may hold codes that it would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def layout(columns: Sequence[Column], width: int | None = None) -> tuple[list[str], list[str]]:
    """Return the lines of a table, the header first, and the titles of the columns that were left out.

    If it is too wide, headers become short, then cells that may be cut are, then columns are left out; a table that is
    too wide even so stays so.

    Args:
        columns: at least one, with as many cells each.
        width: of the terminal in characters; None if what the lines go to has none.
    """
    shown = list(columns)
    lines = _lines(shown, None, short=False)
    if width is None or len(lines[0]) <= width:
        return _stripped(lines), []
    lines = _lines(shown, None, short=True)
    while len(lines[0]) > width:
        longest = max((len(cell) for column in shown if column.cut for cell in column.cells), default=0)
        room = max(width - (len(lines[0]) - longest), _SHORTEST)
        lines = _lines(shown, room, short=True)
        least = max(shown, key=lambda column: column.spare)
        if len(lines[0]) <= width or not least.spare:
            break
        shown.remove(least)
        lines = _lines(shown, None, short=True)
    return _stripped(lines), [column.title for column in columns if column not in shown]


def _lines(columns: Sequence[Column], most: int | None, *, short: bool) -> list[str]:
    fitted = [column.fitted(most, short=short) for column in columns]
    return [_GAP.join(row) for row in zip(*fitted, strict=True)]


def _stripped(lines: Sequence[str]) -> list[str]:
    return [line.rstrip() for line in lines]
