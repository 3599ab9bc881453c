"""Every subset of a small pool, scored: one vectorised addition each."""

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from ensemble.fit.limits import Limits
from ensemble.fit.objective import Features, keys

__all__ = ["LARGEST", "best_subset", "score_subsets"]

LARGEST = 20
"""Candidates, a million subsets: two million would be twice as long, and so on."""

_LOW = 6  # members whose 64 subsets are summed once
_SAME = 1e-7  # keys this close are the same: what float32 sums may differ by


def score_subsets(of: Features) -> npt.NDArray[np.float64]:
    """Return `keys` of every subset at equal weights.

    The sums of all subsets of the first six members are a table; each subset of the others is added to the whole table
    at once. So a subset costs one addition, as in the order of a Gray code, but no rounding error builds up.

    Args:
        of: what the members contribute, `[M, D, N]`.

    Returns:
        `[2^M]`: at index i, of the members whose bits are set in i; infinite for the empty one.
    """
    members, low = len(of), min(len(of), _LOW)
    table = np.zeros((1, *of.shape[1:]), np.float32)
    for row in of[:low]:
        table = np.concatenate((table, table + row))
    ones = np.bitwise_count(np.arange(2**low))
    out = np.empty((2 ** (members - low), 2**low))

    def fill(some: slice) -> None:
        for high in range(some.start, some.stop):
            chosen = [low + bit for bit in range(members - low) if high >> bit & 1]
            rest = of[chosen].sum(0)
            for first in range(0, len(table), 16):  # as much as fits the cache
                part = slice(first, first + 16)
                out[high, part] = keys(table[part] + rest, np.maximum(1, ones[part] + len(chosen)))

    # The empty subset has no probabilities; it is set below.
    with np.errstate(divide="ignore", invalid="ignore"):
        fill(slice(0, 1))
    if len(out) > 1:
        map_blocks(lambda some: fill(slice(some.start + 1, some.stop + 1)), len(out) - 1, 1 << 16)
    out[0, 0] = np.inf
    return out.ravel()


def best_subset(of: Features, limits: Limits) -> tuple[int, ...]:
    """Return the subset within the limits that is best at equal weights; of equals the smallest, then the first.

    Args:
        of: what the members contribute, `[M, D, N]`, M at most `LARGEST`.
        limits: at least one member must be affordable.

    Returns:
        Numbers of the members, ascending.

    Raises:
        ValueError: too many candidates, or none is affordable.
    """
    if len(of) > LARGEST or not len(limits.affordable):
        raise ValueError(f"{len(of)} candidates, {len(limits.affordable)} affordable")
    scores = score_subsets(of)
    costs = np.zeros(1)
    for cost in limits.costs:
        costs = np.concatenate((costs, costs + cost))
    sizes = np.bitwise_count(np.arange(len(scores)))
    scores[costs > limits.ceiling] = np.inf
    if limits.max_members is not None:
        scores[sizes > limits.max_members] = np.inf
    near = np.flatnonzero(scores <= scores.min() + _SAME)
    sets = [tuple(bit for bit in range(len(of)) if index >> bit & 1) for index in near.tolist()]
    return min(sets, key=lambda members: (len(members), members))
