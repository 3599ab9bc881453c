"""A committee as one `torch.nn.Module`: images in, probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ensemble.lockfile import Committee
from ensemble.tensor_merge import merge_log_probs
from tta.views import View, view_set
from zoo import store
from zoo.entry import Entry
from zoo.errors import DataError, UsageError

__all__ = ["Ensemble", "Verdict"]


_ROUNDING = 0.01
"""How far floating point images may be beyond 0..1, as resizing leaves them."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a committee says of N images.

    Attributes:
        probs: merged, `[N, C]`; of a `vote`, the shares of votes.
        top: its classes `[N]`; they are `probs.argmax(1)` but for ties of a `vote`, which the mean probability decides.
        member_probs: each member's, over its views, `[M, N, C]`.
        disagreement: share of the weight whose own top class is not the committee's, `[N]`, in [0, 1).
    """

    probs: Tensor
    top: Tensor
    member_probs: Tensor
    disagreement: Tensor


class Ensemble(nn.Module):
    """Networks, views, weights and temperatures of a committee, in eval mode.

    The order of operations is that of `ensemble.merge.merge`, in fp32 at least; a test holds them together.

    Args:
        committee: of zoo entries; weights that are not on this machine are pulled.

    Attributes:
        classes: the class names, in the order of the columns.
        input_size: (H, W) in pixels.

    Shape: uint8 `[N, H, W, 3]`, or floating point `[N, 3, H, W]` in 0..1 -> probabilities `[N, C]`.

    Raises:
        UsageError: a member is a prediction file or an external entry: there is no network to run.
        DataError: members take images of different sizes, or tell other classes apart.
        NotFoundError, CorruptError, SourceError: as in pulling and loading the members.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    temperatures: Tensor
    view_weights: Tensor

    def __init__(self, committee: Committee) -> None:
        super().__init__()
        entries = [m.origin for m in committee.members if isinstance(m.origin, Entry) and not m.origin.external]
        for member in committee.members:
            if member.origin not in entries:
                raise UsageError(f"{member.name} has predictions only: it cannot classify new images")
        cards = [entry.card for entry in entries]
        for card in cards[1:]:
            if (card.classes, card.input_size) != (cards[0].classes, cards[0].input_size):
                raise DataError(f"{card.name!r} has other classes or images of another size than {cards[0].name!r}")
        self.classes, self.input_size = cards[0].classes, cards[0].input_size
        self.nets = nn.ModuleList(store.whole(entry).load() for entry in entries)
        self.views, self.merge, self.temperature = view_set(committee.views), committee.merge, committee.temperature
        largest = max(m.weight for m in committee.members)  # so that the sum of huge weights stays finite
        weights = torch.tensor([m.weight / largest for m in committee.members], dtype=torch.float64)
        of_views = torch.tensor([view.weight for view in self.views], dtype=torch.float64)
        stats = [(card.mean, card.std) for card in cards]
        self._normalised_as = [stats.index(own) for own in stats]
        self.register_buffer("means", torch.tensor([mean for mean, _ in stats]).view(-1, 3, 1, 1))
        self.register_buffer("stds", torch.tensor([std for _, std in stats]).view(-1, 3, 1, 1))
        self.register_buffer("weights", (weights / weights.sum()).float())
        self.register_buffer("temperatures", torch.tensor([m.temperature for m in committee.members]))
        self.register_buffer("view_weights", (of_views / of_views.sum()).float())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return merged probabilities `[N, C]`; errors as in `verdict`."""
        return self.verdict(images).probs

    def member_probs(self, images: Tensor) -> Tensor:
        """Return each member's probabilities over its views, `[M, N, C]`; errors as in `verdict`."""
        return self.verdict(images).member_probs

    def disagreement(self, images: Tensor) -> Tensor:
        """Return the share of the weight that is of another opinion than the committee, `[N]`; see `Verdict`."""
        return self.verdict(images).disagreement

    def verdict(self, images: Tensor) -> Verdict:
        """Run every network once over every view, and return all that the committee says.

        Raises:
            UsageError: not uint8 `[N, H, W, 3]` or floating point `[N, 3, H, W]` in 0..1 of the members' size.
        """
        logs = self.log_probs(self.planes(images))
        weights, of_views = self.weights.to(logs.dtype), self.view_weights.to(logs.dtype)
        probs, top, own = merge_log_probs(logs, weights, of_views, self.merge, self.temperature)
        others = (own.argmax(-1) != top).to(logs.dtype)
        return Verdict(probs, top, own, torch.einsum("m,mn->n", weights, others))

    def planes(self, images: Tensor) -> Tensor:
        """Return images as floating point `[N, 3, H, W]` in 0..1; errors as in `verdict`.

        That floating point is in 0..1 is only looked at in the CPU's memory: elsewhere it would have to be waited for.
        """
        if not isinstance(images, Tensor):
            raise UsageError(f"images are of type {type(images).__name__}: give a tensor (torch.from_numpy)")
        size = tuple(self.input_size)
        if images.dtype == torch.uint8 and images.ndim == 4 and tuple(images.shape[1:]) == (*size, 3):  # noqa: PLR2004
            return images.permute(0, 3, 1, 2).to(self.means.dtype) / 255
        if images.is_floating_point() and images.ndim == 4 and tuple(images.shape[1:]) == (3, *size):  # noqa: PLR2004
            _check_range(images)
            return images.to(self.means.dtype)
        raise UsageError(
            f"images are {images.dtype} {list(images.shape)}: give uint8 [N, {size[0]}, {size[1]}, 3] "
            f"or floating point [N, 3, {size[0]}, {size[1]}] in 0..1"
        )

    def log_probs(
        self, planes: Tensor, members: Sequence[int] | None = None, views: Sequence[int] | None = None
    ) -> Tensor:
        """Return networks' log-probabilities under views, after their temperatures.

        Args:
            planes: `[N, 3, H, W]` in 0..1, from `planes`.
            members: positions of M members, at least one [default: all].
            views: positions of V views, at least one [default: all].

        Returns:
            `[M, V, N, C]`, in fp32 at least: merging is no work for half precision.
        """
        members = range(len(self.nets)) if members is None else members
        shown = [self.views[v] for v in (range(len(self.views)) if views is None else views)]
        said = []
        for m, seen in zip(members, self.inputs(planes, members, shown), strict=True):
            logits = torch.unflatten(self.nets[m](seen), 0, (len(shown), planes.shape[0]))
            wide = torch.promote_types(logits.dtype, torch.float32)
            said.append((logits.to(wide) / self.temperatures[m]).log_softmax(-1))
        return torch.stack(said)

    def inputs(self, planes: Tensor, members: Sequence[int], views: Sequence[View]) -> list[Tensor]:
        """Return what each member's network sees of images, `[V * N, 3, H, W]`, one view after the other.

        Members that normalise alike see the same tensor.

        Args:
            planes: from `planes`.
            members: positions.
            views: what to look at, V of them.
        """
        seen: dict[int, Tensor] = {}  # by the member whose normalisation it is
        for m in members:
            first = self._normalised_as[m]
            if first not in seen:
                image = (planes - self.means[m]) / self.stds[m]
                seen[first] = torch.cat([view.apply(image) for view in views])
        return [seen[self._normalised_as[m]] for m in members]

    def extra_repr(self) -> str:
        """Return what is not a sub-module, for `print`."""
        return f"views={[view.name for view in self.views]}, merge={self.merge!r}, temperature={self.temperature:g}"


def _check_range(images: Tensor) -> None:
    """Raise `UsageError` if images in the CPU's memory are clearly not in 0..1, as those in 0..255 or normalised."""
    if images.device.type != "cpu" or not images.numel() or torch.compiler.is_compiling():
        return
    low, high = (float(value) for value in images.aminmax())
    if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise UsageError(f"images go from {low:.3g} to {high:.3g}: give floating point in 0..1, or uint8")
