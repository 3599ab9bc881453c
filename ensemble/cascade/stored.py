"""Which stage answers for which image, on stored predictions: no network runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.cascade.stages import steps
from ensemble.lockfile import Committee
from ensemble.merge import Array, Vote, merge
from ensemble.metrics import measures
from zoo.data.split import Labels
from zoo.entry import Entry

__all__ = ["Exits", "answers", "describe", "member_costs", "stage_costs", "stored_exits", "usage"]

Top = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Exits:
    """What a cascade says of N images.

    Attributes:
        probs: of the stage at which each image leaves, `[N, C]`.
        top: classes, `[N]`.
        stage: at which each image leaves, from 0, `[N]`.
    """

    probs: Array
    top: Top
    stage: npt.NDArray[np.intp]


def answers(committee: Committee, votes: Sequence[Vote]) -> tuple[Array, Top]:
    """Return what a committee says, by its cascade if it has one: probabilities `[N, C]` and classes `[N]`.

    Args:
        committee: of M members.
        votes: one a member, each with the committee's views.
    """
    if not committee.cascade:
        return merge(votes, committee.merge, committee.temperature)
    exits = stored_exits(committee, votes)
    return exits.probs, exits.top


def stored_exits(committee: Committee, votes: Sequence[Vote]) -> Exits:
    """Return what a committee's cascade says, and at which stage.

    Every stage is merged on all images, by the code that merges committees, so the last is the committee exactly.

    Args:
        committee: with a cascade.
        votes: one a member, each with the committee's views.
    """
    names = [member.name for member in committee.members]
    probs, top = merge(votes, committee.merge, committee.temperature)
    probs, stage = probs.copy(), np.full(len(top), len(committee.cascade) - 1, np.intp)
    inside = np.ones(len(top), bool)
    for number, step in enumerate(steps(committee.cascade, names, committee.views)[:-1]):
        some = [votes[m] for m in step.members]
        shown = [Vote(v.logits[list(step.views)], step.view_weights, v.weight, v.temperature) for v in some]
        said, own = merge(shown, committee.merge, step.temperature)
        leave = inside & (said.max(1) >= step.threshold)
        probs[leave], top[leave], stage[leave] = said[leave], own[leave], number
        inside &= ~leave
    return Exits(probs, top, stage)


def member_costs(committee: Committee) -> list[int] | None:
    """Return the multiply-adds of one view of each member; None if a card does not say its network's."""
    cards = [m.origin.card for m in committee.members if isinstance(m.origin, Entry)]
    if len(cards) < len(committee.members) or not all(card.multiply_adds for card in cards):
        return None
    return [card.multiply_adds for card in cards]


def stage_costs(committee: Committee) -> list[int] | None:
    """Return the multiply-adds of an image that leaves at each stage; None if a card does not say its network's."""
    costs = member_costs(committee)
    if costs is None:
        return None
    names = [member.name for member in committee.members]
    pairs = [step.pairs for step in steps(committee.cascade, names, committee.views)]
    return list(accumulate(sum(costs[m] for m, _ in run) for run in pairs))


def usage(committee: Committee, exits: Exits) -> tuple[npt.NDArray[np.float64], float | None]:
    """Return the share of images that leave at each stage, and the mean multiply-adds of an image, if cards say."""
    shares = np.bincount(exits.stage, minlength=len(committee.cascade)) / len(exits.stage)
    costs = stage_costs(committee)
    return shares, None if costs is None else float(shares @ costs)


def describe(committee: Committee, votes: Sequence[Vote], exits: Exits, labels: Labels) -> dict[str, Any]:
    """Say where images leave a cascade, what that saves, and how it compares with the whole committee.

    Args:
        committee: with a cascade.
        votes: one a member: what the whole committee says.
        exits: what the cascade says.
        labels: `[N]`.

    Returns:
        `stages`, each with the `share` of images that leave there, their `accuracy` (None if there are none) and what
        is computed for one of them; `multiply_adds` for an image in the mean, and `of_whole`, their share of the whole
        committee's (None if a card is silent); `agreement`, the share of images with the same class; and `whole`, the
        whole committee's `ensemble.metrics.measures`.
    """
    costs = stage_costs(committee)
    shares, mean = usage(committee, exits)
    right = exits.top == labels
    stages = [
        {
            "members": list(stage.members),
            "views": stage.views,
            "temperature": stage.temperature,
            "threshold": stage.threshold,
            "share": float(shares[number]),
            "accuracy": float(right[exits.stage == number].mean()) if shares[number] else None,
            "multiply_adds": costs[number] if costs else None,
        }
        for number, stage in enumerate(committee.cascade)
    ]
    probs, top = merge(votes, committee.merge, committee.temperature)
    return {
        "stages": stages,
        "multiply_adds": mean,
        "of_whole": mean / costs[-1] if mean is not None and costs else None,
        "agreement": float((exits.top == top).mean()),
        "whole": measures(probs, top, labels),
    }
