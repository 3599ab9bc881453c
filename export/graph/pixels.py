"""Networks that take pixels as they are: their normalisation is in the first convolution, or one multiplication."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ensemble.module import Ensemble
from tta.fold import absorb_before, fold_batch_norms
from tta.views import View

__all__ = ["PixelEnsemble", "fold_normalisation"]

_MOVES_ALONE = {"none", "flip"}
"""Views that need no arithmetic, which providers have for floating point only."""


class PixelEnsemble(Ensemble):
    """A committee as it is traced: the same function, in fewer passes over what is larger than it need be.

    Views move uint8 pixels instead of floating point; BatchNorm is in the convolutions, and so is normalisation where
    nothing is padded before it. It shares everything but the networks with the committee that it is made of.

    Args:
        committee: in eval mode; it is not changed.
    """

    def __init__(self, committee: Ensemble) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(committee.__dict__)
        self._modules = dict(committee._modules)  # noqa: SLF001  # a class of the same
        stats = [(mean.flatten(), std.flatten()) for mean, std in zip(committee.means, committee.stds, strict=True)]
        nets = [fold_batch_norms(net) for net in committee.nets]
        self._folded = [fold_normalisation(net, *own) for net, own in zip(nets, stats, strict=True)]
        self.nets = nn.ModuleList(nets)

    def planes(self, images: Tensor) -> Tensor:
        """Return images, uint8 `[N, H, W, 3]`, as pixels `[N, 3, H, W]` in 0..255."""
        return images.permute(0, 3, 1, 2)

    def inputs(self, planes: Tensor, members: Sequence[int], views: Sequence[View]) -> list[Tensor]:
        """Return what `Ensemble.inputs` does; networks that take pixels see them as they are."""
        if any(view.name not in _MOVES_ALONE for view in views):
            planes = planes.float()
        pixels = torch.cat([view.apply(planes) for view in views]).float()
        seen: dict[int, Tensor] = {}  # by the member whose normalisation it is
        for m in members:
            first = self._normalised_as[m]
            if not self._folded[m] and first not in seen:
                seen[first] = pixels * (1 / (255 * self.stds[m])) - self.means[m] / self.stds[m]
        return [pixels if self._folded[m] else seen[self._normalised_as[m]] for m in members]


def fold_normalisation(net: nn.Module, mean: Tensor, std: Tensor) -> bool:
    """Let a network take pixels in 0..255 instead of normalised ones, in place, if its first layers can.

    They can if they are convolutions without padding: a padded zero is the mean of the images, which is no pixel.

    Args:
        net: from `fold_batch_norms`.
        mean: per channel, in units of 0..1, `[C_in]`.
        std: likewise.

    Returns:
        Whether it takes pixels now.
    """
    if not isinstance(net, GraphModule):
        return False
    (images,) = (node for node in net.graph.nodes if node.op == "placeholder")
    called = [str(node.target) for node in net.graph.nodes if node.op == "call_module"]
    readers = [str(node.target) for node in images.users if node.op == "call_module"]
    layers = [net.get_submodule(name) for name in readers]
    if len(readers) < len(images.users) or any(called.count(name) > 1 for name in readers):
        return False
    convs = [conv for conv in layers if isinstance(conv, nn.Conv2d) and conv.groups == 1 and _unpadded(conv)]
    if len(convs) < len(layers):
        return False
    for conv in convs:
        absorb_before(conv, 1 / (255 * std.double()), -mean.double() / std.double())
    return True


def _unpadded(conv: nn.Conv2d) -> bool:
    return conv.padding in {(0, 0), "valid"}
