"""The search for stages: which member goes first, who joins when, and when the views do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.cascade.evidence import Evidence, Shape
from ensemble.cascade.thresholds import MOST_STAGES, Choice, best_thresholds
from ensemble.merge import Array
from tta import view_set

__all__ = ["Chain", "best_chain", "orders", "stages_of"]

_FIRSTS = 5  # members that are tried as the first
_WIDTH = 16  # chains of each length that are made longer
_WORTH = 0.01  # share of the cost that a further stage must save
_SINGLY = 8  # members up to which every number of them may be a stage


@dataclass(frozen=True)
class Chain:
    """Stages and their thresholds.

    Attributes:
        shapes: of the stages, the last being the whole committee.
        choice: thresholds of all stages but the last, and what they cost.
    """

    shapes: tuple[Shape, ...]
    choice: Choice


def best_chain(evidence: Evidence, *, expected: float, observed: float, most: int = MOST_STAGES) -> Chain | None:
    """Return the cascade of least cost within two bounds on the drop of accuracy, or None if there is none.

    Its stages are beginnings of an order of the members, under nested view sets. Cascades of two stages are all tried;
    the cheapest of each length are made longer by a stage in any place. Thresholds are the best for each that is tried.
    A longer cascade has to save a hundredth, since every stage has a cost that multiply-adds do not show.

    Args:
        evidence: on the images to be fitted on.
        expected: bound on the expected drop of accuracy, a fraction.
        observed: bound on the observed drop, a fraction.
        most: stages, from 2 to `MOST_STAGES`.
    """
    kept: list[tuple[tuple[int, ...], tuple[Shape, ...]]] = [
        (order, ()) for order in orders(evidence, expected=expected, observed=observed)
    ]
    best: Chain | None = None
    seen: set[tuple[tuple[frozenset[int], str], ...]] = set()
    for _ in range(most - 1):
        found: list[tuple[tuple[int, ...], Chain]] = []
        for order, before in kept:
            for shapes in _longer(evidence, order, before):
                key = tuple((frozenset(members), views) for members, views in shapes)
                choice = None if key in seen else _choose(evidence, shapes, expected, observed)
                seen.add(key)
                if choice is not None:
                    found.append((order, Chain(shapes, choice)))
        found.sort(key=lambda one: one[1].choice.cost)
        if found and found[0][1].choice.cost < (np.inf if best is None else (1 - _WORTH) * best.choice.cost):
            best = found[0][1]
        kept = [(order, chain.shapes[:-1]) for order, chain in found[:_WIDTH]]
    return best if best is not None and best.choice.cost < evidence.cost(evidence.whole) else None


def orders(evidence: Evidence, *, expected: float, observed: float) -> list[tuple[int, ...]]:
    """Return the orders in which members are called in, the most promising first.

    Each member is tried as the first, alone under the smallest view set, before the whole committee; those with the
    cheapest cascades stay. The others follow one by one: next is the one that brings the expected drop of what is said
    together down the most, in one order for each unit of its cost, in another whatever it costs.
    """
    smallest = min(evidence.parts, key=lambda name: len(view_set(name)))
    ranked: list[tuple[float, int]] = []
    for first in evidence.whole[0]:
        if evidence.whole == ((first,), smallest):
            continue  # nothing can come before it
        choice = _choose(evidence, (((first,), smallest), evidence.whole), expected, observed)
        ranked.append((np.inf if choice is None else choice.cost, first))
    firsts = [first for _, first in sorted(ranked)[:_FIRSTS]]
    prices = (evidence.costs, np.ones(len(evidence.costs)))
    return list(dict.fromkeys(_order(evidence, first, each) for first in firsts for each in prices))


def _order(evidence: Evidence, first: int, prices: Array) -> tuple[int, ...]:
    """Return all members, beginning with one; see `orders`."""
    parts, rows = evidence.parts[evidence.views], np.arange(len(evidence.labels))
    order, said = [first], parts[first].copy()
    while len(order) < len(parts):
        rest = [m for m in range(len(parts)) if m not in order]
        now = evidence.target[rows, said.argmax(1)].sum()
        gains = [(evidence.target[rows, (said + parts[m]).argmax(1)].sum() - now) / prices[m] for m in rest]
        order.append(rest[int(np.argmax(gains))])
        said += parts[order[-1]]
    return tuple(order)


def stages_of(evidence: Evidence, order: Sequence[int]) -> list[Shape]:
    """Return what can be a stage: the first few of an order under a view set, and the whole committee last.

    Every number of members is tried up to 8, then numbers that grow by a third.
    """
    lengths = list(range(1, min(len(order), _SINGLY) + 1))
    while lengths[-1] < len(order):
        lengths.append(min(len(order), lengths[-1] * 4 // 3))
    shapes = [(tuple(order[:length]), views) for length in lengths for views in evidence.parts]
    whole = (tuple(order), evidence.views)
    return [*(shape for shape in shapes if shape != whole), whole]


def _longer(evidence: Evidence, order: Sequence[int], before: Sequence[Shape]) -> Iterator[tuple[Shape, ...]]:
    """Yield the cascades that have one stage more than those before the last."""
    *shapes, whole = stages_of(evidence, order)
    for shape in shapes:
        chain = sorted((*before, shape), key=evidence.cost)
        if all(_within(a, b) for a, b in zip(chain, [*chain[1:], whole], strict=True)):
            yield (*chain, whole)


def _within(a: Shape, b: Shape) -> bool:
    """Say whether a stage is contained in another and is not the same."""
    few, many = ({view.name for view in view_set(shape[1])} for shape in (a, b))
    return a != b and set(a[0]) <= set(b[0]) and few <= many


def _choose(evidence: Evidence, shapes: Sequence[Shape], expected: float, observed: float) -> Choice | None:
    """Return the best thresholds of a chain."""
    signals = [evidence.fitted(shape)[1] for shape in shapes[:-1]]
    return best_thresholds(signals, evidence.added_costs(shapes), expected=expected, observed=observed)
