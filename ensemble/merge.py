"""Merging: from the logits of every member and view to one distribution an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["MERGES", "Array", "Merge", "Vote", "log_softmax", "merge"]

Array = npt.NDArray[np.float64]
Merge = Literal["probs", "logits", "vote"]
MERGES: tuple[str, ...] = get_args(Merge)
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Vote:
    """What one member says.

    Attributes:
        logits: `[V, N, C]`, under each of V views.
        view_weights: `[V]`.
        weight: of the member.
        temperature: the logits are divided by it.
    """

    logits: npt.NDArray[np.floating]
    view_weights: Sequence[float]
    weight: float = 1.0
    temperature: float = 1.0


def log_softmax(logits: npt.NDArray[np.floating]) -> Array:
    """Return log-probabilities over the last axis, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, -1, keepdims=True)
    out: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return out


def merge(votes: Sequence[Vote], how: Merge, temperature: float = 1.0) -> tuple[Array, npt.NDArray[np.intp]]:
    """Merge members and their views.

    `probs` is the weighted mean of probabilities over views and members; `logits` the softmax of the weighted mean of
    log-probabilities; in both, the log of the result is divided by `temperature`. In a `vote` each member merges its
    views by `probs` and gives its weight to its top class; ties go to the class with the larger mean probability.

    Args:
        votes: one a member, with N and C in common; weights above 0.
        how: see above.
        temperature: of the ensemble, above 0; a vote has none.

    Returns:
        The distribution `[N, C]` (for a vote, the shares of votes), and the top class `[N]`.
    """
    largest = max(v.weight for v in votes)  # so that the sum of huge weights stays finite
    total = sum(v.weight / largest for v in votes)
    shares = [v.weight / largest / total for v in votes]
    if how == "logits":
        mean = sum(s * _mean_over_views(v, "logits") for s, v in zip(shares, votes, strict=True))
        probs = np.exp(log_softmax(np.asarray(mean) / temperature))
        return probs, probs.argmax(1)
    by_member = [_mean_over_views(v, "probs") for v in votes]
    mean = np.asarray(sum(s * p for s, p in zip(shares, by_member, strict=True)))
    if how == "vote":
        rows = np.arange(len(mean))
        counts = np.zeros_like(mean)
        for share, probs in zip(shares, by_member, strict=True):
            counts[rows, probs.argmax(1)] += share
        tied = counts >= counts.max(1, keepdims=True) - _TINY
        return counts, np.where(tied, mean, -1.0).argmax(1)
    if temperature != 1:
        mean = np.exp(log_softmax(np.log(np.maximum(mean, _TINY)) / temperature))
    return mean, mean.argmax(1)


def _mean_over_views(vote: Vote, how: Literal["probs", "logits"]) -> Array:
    """Weighted mean over a member's views of its probabilities or log-probabilities, `[N, C]`."""
    values = log_softmax(np.asarray(vote.logits, np.float64) / vote.temperature)
    if how == "probs":
        values = np.exp(values)
    weights = np.asarray(vote.view_weights) / np.sum(vote.view_weights)
    out: Array = np.tensordot(weights, values, axes=1)
    return out
