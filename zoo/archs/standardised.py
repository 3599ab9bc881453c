"""Weight standardisation: convolutions whose filters have mean 0 and variance 1, for networks with GroupNorm.

S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization" (arXiv:1903.10520), section 3; Y. Wu, K. He, "Group Normalization" (arXiv:1803.08494).
"""

import torch
from torch import Tensor, nn

__all__ = ["StandardisedConv2d", "group_norm", "standardise"]


def standardise(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Shift and scale every filter to mean 0 and variance 1 (equations 5 to 7 of the paper).

    Args:
        weight: filters `[out, in, kh, kw]`.
        eps: added to the (biased) variances.

    Returns:
        `(weight - mean) / sqrt(variance + eps)`, of the same shape; differentiable through mean and variance.
    """
    variance, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(variance + eps)


class StandardisedConv2d(nn.Conv2d):
    """`nn.Conv2d` that convolves with `standardise(weight)`; what it stores and learns is `weight` itself.

    Its outputs are about `sqrt(in * kh * kw)` times as large as its inputs, so a normalisation must follow.
    """

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, standardise(self.weight), self.bias)
        return out


def group_norm(width: int) -> nn.GroupNorm:
    """Return GroupNorm over `width` channels: as many equal groups as possible, at most 32 and of at least 4 channels.

    The paper's 32 groups are for 256 channels and more; the 16 of a small network would make less than one a group.
    """
    groups = max((g for g in range(1, 33) if width % g == 0 and width // g >= 4), default=1)
    return nn.GroupNorm(groups, width)
