"""A committee as one `torch.nn.Module`: images in, probabilities out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ensemble.lockfile import Committee
from tta.views import view_set
from zoo import store
from zoo.entry import Entry
from zoo.errors import DataError, UsageError

__all__ = ["Ensemble", "Verdict"]

_TINY = 1e-12


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
        self.register_buffer("means", torch.tensor([card.mean for card in cards]).view(-1, 3, 1, 1))
        self.register_buffer("stds", torch.tensor([card.std for card in cards]).view(-1, 3, 1, 1))
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
            UsageError: not uint8 `[N, H, W, 3]` or floating point `[N, 3, H, W]` of the members' size.
        """
        logs = self._log_probs(self._planes(images))  # [M, V, N, C]
        weights, of_views = self.weights.to(logs.dtype), self.view_weights.to(logs.dtype)
        by_member = torch.einsum("v,mvnc->mnc", of_views, logs.exp())
        mean = torch.einsum("m,mnc->nc", weights, by_member)
        own = by_member
        if self.merge == "logits":
            own = torch.einsum("v,mvnc->mnc", of_views, logs).softmax(-1)
            probs = (torch.einsum("m,v,mvnc->nc", weights, of_views, logs) / self.temperature).softmax(-1)
            top = probs.argmax(-1)
        elif self.merge == "vote":
            votes = nn.functional.one_hot(by_member.argmax(-1), mean.shape[-1]).to(mean.dtype)
            probs = torch.einsum("m,mnc->nc", weights, votes)
            tied = probs >= probs.amax(-1, keepdim=True) - len(self.nets) * torch.finfo(probs.dtype).eps
            top = torch.where(tied, mean, -1.0).argmax(-1)
        else:
            probs = (mean.clamp_min(_TINY).log() / self.temperature).softmax(-1) if self.temperature != 1 else mean
            top = mean.argmax(-1)
        others = (own.argmax(-1) != top).to(mean.dtype)
        return Verdict(probs, top, own, torch.einsum("m,mn->n", weights, others))

    def _planes(self, images: Tensor) -> Tensor:
        """Return images as floating point `[N, 3, H, W]` in 0..1."""
        size = tuple(self.input_size)
        if images.dtype == torch.uint8 and images.ndim == 4 and tuple(images.shape[1:]) == (*size, 3):  # noqa: PLR2004
            return images.permute(0, 3, 1, 2).to(self.means.dtype) / 255
        if images.is_floating_point() and images.ndim == 4 and tuple(images.shape[1:]) == (3, *size):  # noqa: PLR2004
            return images.to(self.means.dtype)
        raise UsageError(
            f"images are {images.dtype} {list(images.shape)}: give uint8 [N, {size[0]}, {size[1]}, 3] "
            f"or floating point [N, 3, {size[0]}, {size[1]}] in 0..1"
        )

    def _log_probs(self, planes: Tensor) -> Tensor:
        """Return each network's log-probabilities under each view, after its temperature, `[M, V, N, C]`."""
        said = []
        for net, mean, std, temperature in zip(self.nets, self.means, self.stds, self.temperatures, strict=True):
            image = (planes - mean) / std
            seen = torch.stack([view.apply(image) for view in self.views])
            logits = torch.unflatten(net(seen.flatten(0, 1)), 0, seen.shape[:2])
            wide = torch.promote_types(logits.dtype, torch.float32)  # merging is no work for half precision
            said.append((logits.to(wide) / temperature).log_softmax(-1))
        return torch.stack(said)

    def extra_repr(self) -> str:
        """Return what is not a sub-module, for `print`."""
        return f"views={[view.name for view in self.views]}, merge={self.merge!r}, temperature={self.temperature:g}"
