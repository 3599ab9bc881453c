"""BatchNorm as training wants it: statistics of small groups of images, and frozen scales.

E. Hoffer, I. Hubara, D. Soudry, "Train longer, generalize better" (arXiv:1705.08741), section 4 (ghost batch norm);
D. Page, "How to Train Your ResNet 8: Bag of Tricks" (2019), for both; code: davidcpage/cifar10-fast at 7935ddb.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.errors import UsageError

__all__ = ["GhostBatchNorm2d", "freeze_scales", "ghost_batch_norm", "group_normalise"]


def group_normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, images: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch-normalise each group of consecutive images with its own statistics.

    There are G = ceil(N / images) groups, whose sizes differ by one image at most: none is larger than `images`, and
    none is a small rest with poor statistics.

    Args:
        x: `[N, C, H, W]`, in any precision and memory layout.
        weight: scales `[C]`, or None for ones.
        bias: shifts `[C]`, or None for zeros.
        images: largest number of images in a group, at least 1.
        eps: added to the (biased) variances.

    Returns:
        The normalised images, of `x`'s shape, dtype and layout, and what running averages need, each `[C]`: the groups'
        means and their unbiased variances, averaged over the groups by their sizes.

    Raises:
        ValueError: a group has only one value per channel, which has no variance.
    """
    groups = math.ceil(len(x) / images)
    size, larger = divmod(len(x), groups)
    # `split` and not `tensor_split`, whose gradient writes a tensor of x's size for each group.
    chunks = torch.split(x, [size + 1] * larger + [size] * (groups - larger))
    precision = torch.promote_types(x.dtype, torch.float32) if weight is None else weight.dtype
    means, variances = torch.zeros((2, groups, x.shape[1]), dtype=precision, device=x.device)
    # One call of torch's kernel a group: on the CPU, 5 to 10 times as fast as vectorised arithmetic over all groups,
    # and as exact in half precisions as BatchNorm is. With momentum 1 the kernel leaves a group's statistics behind.
    out = torch.cat(
        [
            functional.batch_norm(chunk, mean, var, weight, bias, training=True, momentum=1.0, eps=eps)
            for chunk, mean, var in zip(chunks, means, variances, strict=True)
        ]
    )
    mean, var = ((each.sum(0) * size + each[:larger].sum(0)) / len(x) for each in (means, variances))
    return out, mean, var


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises, in training, groups of at most `images` images on their own (`group_normalise`).

    Running statistics move once a batch, by `momentum`, to the groups' average mean and unbiased variance: as often as
    BatchNorm's, and whatever the order of the groups, unlike the paper's, which move once for every group. Evaluation,
    parameters and the names in `state_dict` are those of `nn.BatchNorm2d`.

    Args:
        width: number of channels C.
        images: largest number of images in a group, at least 1.
        settings: those of `nn.BatchNorm2d`.

    Shape: `[N, C, H, W]` -> the same.

    Raises:
        UsageError: `images` is below 1.
    """

    def __init__(self, width: int, images: int, **settings: Any) -> None:  # noqa: ANN401  # as BatchNorm's
        super().__init__(width, **settings)
        if images < 1:
            raise UsageError(f"ghost BatchNorm needs groups of at least 1 image, got {images}")
        self.images = images

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, images: int) -> "GhostBatchNorm2d":
        """Return a layer with `norm`'s settings, and with its very parameters and buffers."""
        ghost = cls(
            norm.num_features,
            images,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        )
        ghost.weight, ghost.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(ghost, name, buffer)
        return ghost.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.images:
            return super().forward(x)
        out, mean, var = group_normalise(x, self.weight, self.bias, self.images, self.eps)
        self._track(mean, var)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics, if there are any."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # Without a momentum they are averages over all batches, as in BatchNorm.
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
        self.running_var.lerp_(var.to(self.running_var.dtype), step)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, images={self.images}"  # type: ignore[no-untyped-call]


def ghost_batch_norm(net: nn.Module, images: int) -> int:
    """Make every BatchNorm inside `net` a `GhostBatchNorm2d`, in place; the names in `state_dict` stay.

    Args:
        net: a network; its parameters and buffers stay the same objects, so optimizers may hold them already.
        images: largest number of images in a group; batches of no more are normalised as before.

    Returns:
        How many layers there are.

    Raises:
        UsageError: `images` is below 1, or there is no BatchNorm.
    """
    layers = [
        (parent, name, child)
        for parent in net.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    if not layers:
        raise UsageError("ghost BatchNorm: the network has no BatchNorm")
    for parent, name, norm in layers:
        setattr(parent, name, GhostBatchNorm2d.of(norm, images))
    return len(layers)


def freeze_scales(net: nn.Module, value: float = 1.0) -> int:
    """Set the weights of every BatchNorm of `net` to a constant and freeze them; the biases go on learning.

    Args:
        net: a network.
        value: the constant, finite and above 0.

    Returns:
        How many layers were frozen.

    Raises:
        UsageError: `value` is out of range, or there is no BatchNorm.
    """
    if not 0 < value < math.inf:
        raise UsageError(f"frozen BatchNorm scales must be finite and above 0, got {value}")
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
    if not norms:
        raise UsageError("frozen BatchNorm scales: the network has no BatchNorm")
    for norm in norms:
        nn.init.constant_(norm.weight, value)
        norm.weight.requires_grad_(False)
    return len(norms)
