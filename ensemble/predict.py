"""Classify images with a committee."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ensemble.evaluate import entry_vote
from ensemble.lockfile import Committee
from ensemble.merge import Array, Merge, Vote, merge
from tta.predict import view_logits
from tta.views import view_set
from zoo.data.split import Pixels
from zoo.entry import Entry
from zoo.errors import UsageError

__all__ = ["Answer", "classify"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a committee says of images.

    Attributes:
        probs: merged, `[N, C]`.
        top: the committee's classes `[N]`.
        member_top: each member's own, `[M, N]`.
    """

    probs: Array
    top: npt.NDArray[np.intp]
    member_top: npt.NDArray[np.intp]


def classify(committee: Committee, images: Pixels, *, device: torch.device) -> Answer:
    """Run a committee over images.

    Args:
        committee: of zoo entries.
        images: uint8 `[N, H, W, 3]`, of the size that the entries' cards state.
        device: where to run.

    Raises:
        UsageError: a member is a prediction file, which knows no other images.
    """
    votes: list[Vote] = []
    for member in committee.members:
        if not isinstance(member.origin, Entry):
            raise UsageError(f"{member.name} is a prediction file: it cannot classify new pictures")
        card, net = member.origin.card, member.origin.load().to(device)
        logits = view_logits(net, images, view_set(committee.views), (card.mean, card.std), device=device)
        votes.append(entry_vote(member, dict(logits), committee.views))
    probs, top = merge(votes, committee.merge, committee.temperature)
    own: Merge = "logits" if committee.merge == "logits" else "probs"
    return Answer(probs, top, np.stack([merge([vote], own)[1] for vote in votes]))
