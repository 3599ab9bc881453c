"""A cascade as one `torch.nn.Module`: images in, probabilities out, and only as much computed as each image needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ensemble.cascade.stages import Step, steps
from ensemble.lockfile import Committee
from ensemble.module import Ensemble
from ensemble.tensor_merge import merge_log_probs
from zoo.errors import UsageError

__all__ = ["Cascade", "TensorExits"]

_CPU_CHUNK, _CHUNK = 128, 4096


@dataclass(frozen=True, eq=False)
class TensorExits:
    """What a cascade of M members says of N images.

    Attributes:
        probs: of the stage at which each image leaves, `[N, C]`.
        top: classes, `[N]`.
        stage: at which each image leaves, from 0, `[N]`.
        member_top: each member's own class over the views it was asked under, `[M, N]`; -1 where it was not asked.
    """

    probs: Tensor
    top: Tensor
    stage: Tensor
    member_top: Tensor


class Cascade(nn.Module):
    """A committee that is asked in stages; an image leaves at the first stage that is sure enough.

    A stage runs on the images that are left of the batch, and only the members and views that no stage before has run
    on them. Every answer is the one that `ensemble.cascade.stored` gives from stored predictions; a test holds it so.

    Give it many images at a time: what is left of them after a stage then still fills a network's batch.

    Args:
        whole: the committee's networks; frozen or not.
        committee: of which `whole` was made, with a cascade.
        chunk: images that a network gets at once, its views counted [default: 128 on a CPU, whose caches are small, and
            4,096 elsewhere].

    Attributes:
        whole: as given, to ask every member about every image: `cascade.whole.verdict(images)`.
        classes: the class names, in the order of the columns.
        input_size: (H, W) in pixels.

    Shape: uint8 `[N, H, W, 3]`, or floating point `[N, 3, H, W]` in 0..1 -> probabilities `[N, C]`.

    Raises:
        UsageError: the committee has no cascade.
    """

    def __init__(self, whole: Ensemble, committee: Committee, *, chunk: int | None = None) -> None:
        super().__init__()
        if not committee.cascade:
            raise UsageError("this ensemble has no cascade: `ensemble cascade ensemble.json -o cascade.json` fits one")
        self.whole, self.chunk = whole, chunk
        self.classes, self.input_size = whole.classes, whole.input_size
        self.steps = steps(committee.cascade, [member.name for member in committee.members], committee.views)
        self.eval()

    @property
    def nets(self) -> nn.ModuleList:
        """The members' networks."""
        return self.whole.nets

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities `[N, C]` with which images leave; errors as in `exits`."""
        return self.exits(images).probs

    def member_probs(self, images: Tensor) -> Tensor:
        """Return every member's probabilities `[M, N, C]`, for which all networks run; errors as in `exits`."""
        return self.whole.member_probs(images)

    def disagreement(self, images: Tensor) -> Tensor:
        """Return how far the whole committee is divided, `[N]`, for which all networks run; see `Verdict`."""
        return self.whole.disagreement(images)

    def exits(self, images: Tensor) -> TensorExits:
        """Run the stages, each on what is left, and return all that the cascade says.

        Raises:
            UsageError: not uint8 `[N, H, W, 3]` or floating point `[N, 3, H, W]` of the members' size.
        """
        planes = self.whole.planes(images)
        rows = torch.arange(len(planes), device=planes.device)
        stage = torch.zeros_like(rows)
        member_top = rows.new_full((len(self.whole.nets), len(rows)), -1)
        tops = torch.zeros_like(rows)
        wide = torch.promote_types(planes.dtype, torch.float32)
        probs = planes.new_zeros((len(rows), len(self.classes)), dtype=wide)
        known: dict[tuple[int, int], Tensor] = {}  # (member, view) -> log-probabilities of the images that are left
        for number, step in enumerate(self.steps):
            for members, views in step.new:
                logs = self._log_probs(planes, members, views)
                known |= {(m, v): logs[i, j] for i, m in enumerate(members) for j, v in enumerate(views)}
            said, top, own = self._merge(step, known)
            # Whoever stays is written over by a later stage.
            probs[rows], tops[rows], stage[rows] = said, top, number
            for m, its in zip(step.members, own.argmax(-1), strict=True):
                member_top[m, rows] = its
            left = (~(said.amax(-1) >= step.threshold)).nonzero()[:, 0]  # what is not finite is not sure
            if not len(left):
                break
            if len(left) < len(rows):
                rows, planes = rows[left], planes[left]
                known = {pair: logs[left] for pair, logs in known.items()}
        return TensorExits(probs, tops, stage, member_top)

    def _log_probs(self, planes: Tensor, members: Sequence[int], views: Sequence[int]) -> Tensor:
        """Return log-probabilities as `Ensemble.log_probs`, with no more than `chunk` images at once."""
        chunk = self.chunk or (_CPU_CHUNK if planes.device.type == "cpu" else _CHUNK)
        parts = torch.split(planes, max(1, chunk // len(views)))
        return torch.cat([self.whole.log_probs(part, members, views) for part in parts], 2)

    def _merge(self, step: Step, known: dict[tuple[int, int], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return a stage's probabilities `[n, C]`, classes `[n]` and its members' own probabilities `[m, n, C]`."""
        logs = torch.stack([torch.stack([known[m, v] for v in step.views]) for m in step.members])
        weights = self.whole.weights[list(step.members)].to(logs.dtype)
        of_views = logs.new_tensor(step.view_weights)
        return merge_log_probs(
            logs, weights / weights.sum(), of_views / of_views.sum(), self.whole.merge, step.temperature
        )
