"""What fits and what does not, side by side, when a file is not what it was taken for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from zoo.importing.layers import Layer

__all__ = ["HEADER", "Row", "compare", "fits_but_for_the_head", "shape_text", "table_rows"]

HEADER = ("network", "shape", "file", "shape", "")
_MOST_LAYERS = 5000
_MOST_ROWS = 60


class Row(NamedTuple):
    """A layer of the network, one of the file, and whether they can be the same; either may be missing."""

    mine: Layer | None
    theirs: Layer | None

    @property
    def fits(self) -> bool:
        """Whether both are there, of the same kind and shapes."""
        return self.mine is not None and self.theirs is not None and self.mine.look == self.theirs.look


def compare(mine: Sequence[Layer], theirs: Sequence[Layer]) -> list[Row]:
    """Lay two lists of layers side by side, so that as many as possible fit and neither changes its order.

    Between those that fit, layers of one kind are shown beside each other.
    """
    yours = theirs[:_MOST_LAYERS]  # of a hostile file; no network here has nearly as many
    rows = []
    for fit, own, others in _runs([layer.look for layer in mine], [layer.look for layer in yours]):
        if fit:
            rows += [Row(mine[i], yours[j]) for i, j in zip(own, others, strict=True)]
            continue
        for alike, some, those in _runs([mine[i].kind for i in own], [yours[j].kind for j in others]):
            left, right = [mine[own[i]] for i in some], [yours[others[j]] for j in those]
            if alike:
                rows += [Row(a, b) for a, b in zip(left, right, strict=True)]
            else:
                rows += [*(Row(a, None) for a in left), *(Row(None, b) for b in right)]
    return rows


def _runs(a: Sequence[object], b: Sequence[object]) -> Iterator[tuple[bool, range, range]]:
    """Yield runs of positions in two sequences: equal ones, and what lies between."""
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        yield tag == "equal", range(i, j), range(k, m)


def table_rows(rows: Sequence[Row]) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of a comparison, see `HEADER`: what does not fit, and how much fits in between."""
    cells = list(_cells(rows))
    left = len(cells) - _MOST_ROWS
    return cells if left <= 0 else [*cells[:_MOST_ROWS], (f"... {left} more lines", "", "", "", "")]


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, str, str]]:
    good = 0
    for row in [*rows, None]:
        if row is not None and row.fits:
            good += 1
            continue
        if good:
            yield (f"{good} layers", "", f"{good} layers", "", "fit")
            good = 0
        if row is not None:
            missing = "not in the network" if row.mine is None else "not in the file"
            said = "differs" if row.mine is not None and row.theirs is not None else missing
            yield (*_cell(row.mine), *_cell(row.theirs), said)


def _cell(layer: Layer | None) -> tuple[str, str]:
    return (layer.name[:80], shape_text(layer)) if layer is not None else ("", "")


def shape_text(layer: Layer) -> str:
    """Return what a layer is, in short: `conv 16x3x3x3`, `norm 16`, `linear 10x64 + bias`."""
    shapes = dict(layer.shapes)
    main = "x".join(map(str, shapes.pop("weight", ())))
    usual = {"norm": {"bias", "mean", "var"}}.get(layer.kind, set())
    extra = [f"+ {role}" for role in shapes if role not in usual] + [f"- {role}" for role in usual - shapes.keys()]
    return " ".join([layer.kind, main, *sorted(extra)]).replace("  ", " ")[:80]


def fits_but_for_the_head(mine: Sequence[Layer], theirs: Sequence[Layer]) -> bool:
    """Say whether two networks have the same layers, whatever the number of classes."""
    return Counter(map(_without_classes, mine)) == Counter(map(_without_classes, theirs))


def _without_classes(layer: Layer) -> object:
    if layer.kind != "linear":
        return layer.look
    return layer.kind, tuple((role, shape[1:]) for role, shape in layer.shapes)
