"""What is traced: a committee, or what a stage of its cascade adds, as a module from uint8 images to the outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ensemble.cascade.stages import Step
from ensemble.module import Ensemble

__all__ = ["Stage", "Whole"]

_TIES = 1e-6
"""What the class that a vote elects gets on top of its share of votes: more than equal shares differ by rounding."""


class Whole(nn.Module):
    """A committee whose members are all asked.

    The probabilities are `ensemble.module.Ensemble`'s. Of a vote they are the shares of votes, and the class that it
    elects gets a few millionths of the others', so that it is the largest where shares are equal, too.

    Args:
        committee: to be traced.
        member_probs: whether to give each member's probabilities, too.

    Shape: uint8 `[N, H, W, 3]` -> `[N, C]`, and with `member_probs` `[N, M, C]`.
    """

    def __init__(self, committee: Ensemble, *, member_probs: bool = False) -> None:
        super().__init__()
        self.committee, self._member_probs = committee, member_probs

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        said = self.committee.verdict(images)
        probs = said.probs
        if self.committee.merge == "vote":
            more = max(_TIES, 2 * len(said.member_probs) * torch.finfo(probs.dtype).eps)  # twice what counts as equal
            elected = one_hot(said.top, probs.shape[1]).to(probs.dtype)
            probs = probs + more * (elected - probs)  # a factor of nearly 1 would be optimised away
        return (probs, said.member_probs.transpose(0, 1)) if self._member_probs else probs


class Stage(nn.Module):
    """What a stage of a cascade is the first to compute.

    Args:
        committee: whose cascade it is.
        step: the stage.

    Shape: uint8 `[N, H, W, 3]` -> log-probabilities `[N, P, C]` of the P (member, view) pairs of `step.pairs`, in that
    order, after the members' temperatures.
    """

    def __init__(self, committee: Ensemble, step: Step) -> None:
        super().__init__()
        self.committee, self._blocks = committee, step.new

    def forward(self, images: Tensor) -> Tensor:
        planes = self.committee.planes(images)
        parts = [self._block(planes, members, views) for members, views in self._blocks]
        return torch.cat(parts).transpose(0, 1)

    def _block(self, planes: Tensor, members: Sequence[int], views: Sequence[int]) -> Tensor:
        """Return log-probabilities `[P, N, C]` of some members under some views."""
        return self.committee.log_probs(planes, members, views).flatten(0, 1)
