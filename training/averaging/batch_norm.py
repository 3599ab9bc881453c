"""BatchNorm statistics for weights that no forward pass has seen yet, such as an average."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from tta.predict import Precision, autocast
from zoo.errors import MenagerieError

__all__ = ["BatchSource", "recompute_statistics"]

BatchSource = Callable[[], Iterator[Tensor]]
"""Starts a pass over normalised image batches `[B, 3, H, W]`."""


class _OnlyNorms(nn.Module):
    """A network whose BatchNorms alone can be switched to training.

    `update_bn` calls `train()` on what it is given. On the bare network that would also switch on dropout, stochastic
    depth and ShakeDrop: statistics of another network than the one that is used, and draws from the global generator.
    """

    def __init__(self, net: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.net, self.precision = net, precision
        self.device = next(net.parameters()).device

    def train(self, mode: bool = True) -> "_OnlyNorms":  # noqa: FBT001, FBT002  # torch's signature
        self.training = mode
        self.net.eval()
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            logits: Tensor = self.net(images.to(self.device, non_blocking=True))
        return logits


def recompute_statistics(net: nn.Module, batches: BatchSource, precision: Precision = "fp32") -> None:
    """Set the running statistics of all BatchNorms of a network, in place, from one pass over data.

    Each running mean (variance) becomes the mean over the batches of the batch's mean (unbiased variance), as
    `torch.optim.swa_utils.update_bn` computes it: batches should be of one size, and as large as in training. All
    other layers are in evaluation mode, as they are when the network is used. The network is left in evaluation mode.

    Args:
        net: normalised images `[B, 3, H, W]` -> logits `[B, C]`.
        batches: called once, or not at all if there is no BatchNorm.
        precision: of the pass.

    Raises:
        MenagerieError: there is no batch.
    """
    net.eval()
    if not any(isinstance(module, _BatchNorm) for module in net.modules()):
        return
    seen = 0

    def counted() -> Iterator[Tensor]:
        nonlocal seen
        for images in batches():
            seen += 1
            yield images

    wrapped = _OnlyNorms(net, precision)
    wrapped.train(mode=False)  # the state that `update_bn` goes back to
    update_bn(counted(), wrapped)
    if not seen:
        raise MenagerieError("BatchNorm statistics need at least one batch of images: give more training images")
