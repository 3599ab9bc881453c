"""Option A with its zeros on both sides, as akamaster/pytorch_resnet_cifar10 has it, turned into ours.

Where the width grows by k, the parameter-free shortcut appends k channels of zeros (`zoo.archs.resnet`), or puts k/2
before and k/2 after what there is (`LambdaLayer` of that code). The two are the same network with its channels in
another order, which can be undone exactly: the stream between blocks is renumbered so that the zeros come last.
"""

import torch
from torch import Tensor, nn

from zoo.archs.resnet import ResBlock, ResNet, SubsampledShortcut
from zoo.errors import UsageError

__all__ = ["has_zero_channels", "zeros_to_the_end"]


def has_zero_channels(net: nn.Module) -> bool:
    """Say whether a network has shortcuts that pad with channels of zeros, of which there are two kinds."""
    return any(isinstance(module, SubsampledShortcut) for module in net.modules())


@torch.no_grad()
def zeros_to_the_end(net: nn.Module) -> None:
    """Reorder the channels of a network, given weights for zeros on both sides, so that it computes the same here.

    Args:
        net: a `ResNet` with parameter-free shortcuts, changed in place.

    Raises:
        UsageError: another network, or a width that grows by an odd number.
    """
    if not isinstance(net, ResNet) or not has_zero_channels(net):
        raise UsageError("--zero-channels both: this architecture has no shortcuts that pad with zeros")
    order = torch.arange(len(next(net.stem.parameters())))  # our channel -> theirs
    for block in net.blocks:
        if not isinstance(block, ResBlock):
            raise TypeError(f"a ResNet with a {type(block).__name__}")
        first, _, _, second, norm = block.branch
        _reorder(first, "weight", order, dim=1)
        if isinstance(block.shortcut, SubsampledShortcut):
            order = _wider(order, block.shortcut.new_channels)
        _reorder(second, "weight", order)
        for name in norm.state_dict().keys() - {"num_batches_tracked"}:
            _reorder(norm, name, order)
    _reorder(net.head, "weight", order, dim=1)


def _reorder(layer: nn.Module, name: str, order: Tensor, dim: int = 0) -> None:
    """Reorder a tensor of a layer along one dimension."""
    tensor: Tensor = getattr(layer, name)
    tensor.copy_(tensor.index_select(dim, order))


def _wider(order: Tensor, new: int) -> Tensor:
    """Return the order of channels after a shortcut that put half of its `new` zeros before `order`, half behind."""
    if new % 2:
        raise UsageError(f"--zero-channels both: {new} new channels have no half")
    half = new // 2
    ends = torch.arange(half)
    return torch.cat((order + half, ends, ends + half + len(order)))
