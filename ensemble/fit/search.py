"""Greedy selection with replacement, and its wider sibling, beam search.

R. Caruana et al., "Ensemble selection from libraries of models", ICML 2004: members are added one by one, each as often
as it helps, and the best committee on the way counts. A beam keeps the `width` best committees of each size instead of
one; width 1 is the greedy search.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from ensemble.fit.limits import Limits
from ensemble.fit.objective import Features, keys

__all__ = ["Bag", "beam_search"]

_PATIENCE = 8  # rounds without a better committee, after which none is expected
_PICKING = 6  # times the cost of reading images in a row is that of picking some


@dataclass(frozen=True)
class Bag:
    """A committee as a multiset.

    Attributes:
        members: numbers of candidates, ascending, each as often as it was chosen.
        key: as `ensemble.fit.objective.keys`.
    """

    members: tuple[int, ...]
    key: float

    @property
    def counts(self) -> dict[int, int]:
        """Member -> how often it was chosen."""
        return {member: self.members.count(member) for member in dict.fromkeys(self.members)}


def beam_search(of: Features, limits: Limits, *, width: int = 1, rounds: int = 50) -> Bag:
    """Return the best committee that a beam search with replacement meets.

    Args:
        of: what the candidates contribute, `[M, D, N]`, in the order in which ties are broken.
        limits: at least one candidate must be affordable.
        width: committees that are kept in each round.
        rounds: the most members, counted with multiplicity.

    Raises:
        ValueError: nothing is affordable.
    """
    if not len(limits.affordable):
        raise ValueError("no candidate is affordable")
    ends = (of[:, 1:].min(0), of[:, 1:].max(0)) if of.shape[1] > 1 else None
    beam: dict[tuple[int, ...], Features] = {(): np.zeros(of.shape[1:], np.float32)}
    best = Bag((), np.inf)
    stale = 0
    for size in range(1, rounds + 1):
        found: dict[tuple[int, ...], tuple[float, tuple[int, ...], int]] = {}
        for members, sums in beam.items():
            addable = limits.addable(members)
            rows = np.flatnonzero(addable)
            some = of if addable.all() else of[rows]
            scores = _extended(some, sums, size) if ends is None else _by_accuracy(some, sums, size, width, ends)
            for place in np.argsort(scores, kind="stable")[:width].tolist():
                added = int(rows[place])
                bag = tuple(sorted((*members, added)))
                found.setdefault(bag, (float(scores[place]), members, added))
        ranked = sorted(found.items(), key=lambda item: item[1][0])[:width]
        beam = {bag: beam[parent] + of[added] for bag, (_, parent, added) in ranked}
        bag, (key, _, _) = ranked[0]
        stale = 0 if key < best.key else stale + 1
        best = Bag(bag, key) if key < best.key else best
        if stale > _PATIENCE:
            break
    return best


def _extended(of: Features, sums: Features, size: int) -> npt.NDArray[np.float64]:
    """Return the keys of a committee with sums `[D, N]` and each candidate added, `[M]`; `size` counts the added."""
    return np.concatenate(map_blocks(lambda some: keys(of[some] + sums, size), len(of), 2 * sums.nbytes))


def _by_accuracy(
    of: Features, sums: Features, size: int, width: int, ends: tuple[Features, Features]
) -> npt.NDArray[np.float64]:
    """Return what `_extended` does for the best `width` candidates and those equal to them; more for the others.

    An image whose label leads whichever candidate is added, or trails behind a class whichever is, needs no counting:
    after a few members that is most of them. And log-losses matter only among equal numbers of wrong answers.

    Args:
        of: with leads, `[M, D, N]`.
        sums: of the committee, `[D, N]`.
        size: counts the added one.
        width: candidates that are wanted.
        ends: smallest and largest lead that any candidate could add, `[D - 1, N]` each.
    """
    lowest, highest = ends
    trailing = (sums[1:] + highest <= 0).any(0)
    close = np.flatnonzero(~trailing & (sums[1:] + lowest <= 0).any(0))
    few = len(close) * _PICKING < sums.shape[1]
    images = close if few else slice(None)
    leads = np.ascontiguousarray(sums[1:, images])

    def count(some: slice) -> npt.NDArray[np.intp]:
        left = of[some, 1:][:, :, images] + leads
        wrong: npt.NDArray[np.intp] = (np.minimum.reduce(left, 1) <= 0).sum(1)
        return wrong

    wrong = np.concatenate(map_blocks(count, len(of), max(1, 2 * leads.nbytes))) + (trailing.sum() if few else 0)
    near = np.flatnonzero(wrong <= np.sort(wrong)[min(width, len(wrong)) - 1])
    loss = _extended(np.ascontiguousarray(of[near, :1]), sums[:1], size)
    scores = wrong + 1.0
    scores[near] = wrong[near] + loss / (1 + loss)
    return scores
