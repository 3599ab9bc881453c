"""Classify images with a committee."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ensemble.cascade.run import Cascade
from ensemble.evaluate import entry_vote
from ensemble.lockfile import Committee
from ensemble.merge import Array, Merge, Vote, merge
from ensemble.module import Ensemble
from tta.batches import device_batches
from tta.predict import view_logits
from tta.views import view_set
from zoo.data.split import Pixels
from zoo.entry import Entry
from zoo.errors import UsageError

__all__ = ["Answer", "classify"]

_BATCH = 2000  # for a cascade, of which later stages get a few


@dataclass(frozen=True, eq=False)
class Answer:
    """What a committee says of images.

    Attributes:
        probs: merged, `[N, C]`.
        top: the committee's classes `[N]`.
        member_top: each member's own, `[M, N]`; -1 where a cascade did not ask it.
        stage: of a cascade, at which each image left, from 0, `[N]`.
    """

    probs: Array
    top: npt.NDArray[np.intp]
    member_top: npt.NDArray[np.intp]
    stage: npt.NDArray[np.intp] | None = None


def classify(committee: Committee, images: Pixels, *, device: torch.device) -> Answer:
    """Run a committee over images; one with a cascade with its early exits.

    Args:
        committee: of zoo entries.
        images: uint8 `[N, H, W, 3]`, of the size that the entries' cards state.
        device: where to run.

    Raises:
        UsageError: a member is a prediction file, which knows no other images.
    """
    if committee.cascade:
        return _early(committee, images, device)
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


def _early(committee: Committee, images: Pixels, device: torch.device) -> Answer:
    """Run a committee's cascade over images."""
    cascade = Cascade(Ensemble(committee), committee).to(device)
    with torch.inference_mode():
        parts = [cascade.exits(pixels) for pixels in device_batches(images, _BATCH, device)]
    probs, top, stage = (
        torch.cat([getattr(part, name) for part in parts]).cpu().numpy() for name in ("probs", "top", "stage")
    )
    own = torch.cat([part.member_top for part in parts], 1).cpu().numpy()
    return Answer(probs.astype(np.float64), top, own, stage)
