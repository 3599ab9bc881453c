"""A committee as a teacher: images as a student sees them in, the log of the committee's probabilities out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.lockfile import Committee
from ensemble.module import Ensemble
from ensemble.tensor_merge import merge_log_probs
from tta.views import View
from zoo.entry import Entry
from zoo.errors import UsageError

__all__ = ["CommitteeTeacher", "entries_of", "is_mirror_symmetric", "teacher_record"]

_TINY = 1e-12


class CommitteeTeacher(nn.Module):
    """What a committee says, for students that learn from it.

    The answers are those of `Ensemble`: all members, all views, merged with the committee's weights and temperatures.
    So the teacher is calibrated, and a distillation's temperature counts from there: at 1 the student is taught the
    probabilities that the committee would state.

    Args:
        net: on the device of the images; its merge is `probs` or `logits`.
        mean: the student's, per channel, in units of 0..1.
        std: likewise.

    Shape: images `[N, 3, H, W]`, normalised with the student's mean and std -> log-probabilities `[N, C]`, in fp32.

    Raises:
        UsageError: the committee votes, which leaves no soft answers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Ensemble, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _refuse_votes(net.merge)
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, device=net.means.device).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, device=net.means.device).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        with torch.autocast(images.device.type, enabled=False):  # the student's precision is none of its business
            logs = net.log_probs(images.float() * self.std + self.mean)
            probs, _, _ = merge_log_probs(logs, net.weights, net.view_weights, net.merge, net.temperature)
            return probs.clamp_min(_TINY).log()


def is_mirror_symmetric(views: Sequence[View]) -> bool:
    """Say whether an image and its mirror image look alike under a set of views, so that one answer does for both."""
    probe = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    left: list[float] = []
    for view in views:
        seen = view.apply(probe.flip(3))
        left += [other.weight for other in views if torch.equal(other.apply(probe), seen)] or [-1.0]
    return left == [view.weight for view in views]


def teacher_record(committee: Committee, fitted: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return which committee taught, for the student's card: members by the hash of their weights, and the merge.

    `fitted_on` says which split weights and temperatures come from: a few numbers, through which that split has
    reached the student. They are too few to tell it anything of single images, so it can still take part in fits there.

    Args:
        committee: of zoo entries.
        fitted: what it was fitted on, see `ensemble.lockfile.read_provenance`.

    Raises:
        UsageError: a member is a prediction file or an external entry, or the committee votes.
    """
    _refuse_votes(committee.merge)
    entries = entries_of(committee)
    return {
        "members": [
            {"name": m.name, "sha256": entry.weights_digest, "weight": m.weight, "temperature": m.temperature}
            for m, entry in zip(committee.members, entries, strict=True)
        ],
        "views": committee.views,
        "merge": committee.merge,
        "temperature": committee.temperature,
        "fitted_on": dict(fitted) if fitted else None,
    }


def entries_of(committee: Committee) -> list[Entry]:
    """Return the entries of a committee's members; `UsageError` if one has no network."""
    entries = []
    for member in committee.members:
        if not isinstance(member.origin, Entry) or member.origin.external:
            raise UsageError(f"{member.name!r} cannot teach: it has predictions only, and no network to run")
        entries.append(member.origin)
    return entries


def _refuse_votes(merge: str) -> None:
    if merge == "vote":
        raise UsageError("a committee that votes has no soft answers to teach: merge it by probs or logits")
