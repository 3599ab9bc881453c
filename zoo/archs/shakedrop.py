"""ShakeDrop: a residual branch that is randomly kept, or scaled by noise that differs forward and backward.

Y. Yamada, M. Iwamura, T. Akiba, K. Kise, "ShakeDrop Regularization for Deep Residual Learning" (arXiv:1802.02375),
section 3. Beta is drawn from U[0, 1], as in the paper's experiments: from U[-1, 1] the gradient of a dropped branch
would be zero in expectation.
"""

import torch
from torch import Tensor, nn

from zoo.archs.two_way_scale import two_way_scale

__all__ = ["ShakeDrop", "linear_drop_probs", "shake_drop"]


def shake_drop(x: Tensor, gate: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Scale a residual branch by `gate + alpha - gate * alpha`, and its gradient by `gate + beta - gate * beta`.

    Args:
        x: the branch's output, any shape.
        gate: 0 (dropped) or 1 (kept: both factors are exactly one); broadcasts against `x`, like `alpha` and `beta`.
        alpha: forward factor of a dropped branch.
        beta: backward factor of a dropped branch.

    Returns:
        The scaled branch, of `x`'s shape and dtype.
    """
    # Written as gate + (1 - gate) * alpha, the same sum without its rounding error when the gate is one.
    return two_way_scale(x, gate + (1 - gate) * alpha, gate + (1 - gate) * beta)


class ShakeDrop(nn.Module):
    """`shake_drop` with fresh draws in training; multiplication by the expected factor `1 - p` in evaluation.

    In training gate ~ Bernoulli(1 - p), alpha ~ U[-1, 1] and beta ~ U[0, 1]; alpha and beta are drawn for each sample.

    Args:
        p: probability of dropping the branch, in [0, 1].
        per_sample_gate: draw one gate per sample rather than one per batch (the paper's).

    Shape: `[N, ...]` -> the same.

    Raises:
        ValueError: if `p` lies outside [0, 1].
    """

    def __init__(self, p: float, *, per_sample_gate: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p}")
        self.p = p
        self.per_sample_gate = per_sample_gate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        # Drawn in float32 whatever the precision of x: in bfloat16 uniform draws have steps of 1/256.
        per_sample = (x.shape[0], *(1 for _ in x.shape[1:]))
        per_batch = tuple(1 for _ in x.shape)
        gate = torch.rand(per_sample if self.per_sample_gate else per_batch, device=x.device) >= self.p
        alpha = torch.rand(per_sample, device=x.device) * 2 - 1
        beta = torch.rand(per_sample, device=x.device)
        return shake_drop(x, gate.float(), alpha, beta)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, per_sample_gate={self.per_sample_gate}"


def linear_drop_probs(blocks: int, last: float = 0.5) -> list[float]:
    """Drop probabilities that grow linearly with depth: `last * l / blocks` for block l = 1 .. blocks.

    Args:
        blocks: number of residual blocks, at least 1.
        last: the last block's probability, in [0, 1].

    Raises:
        ValueError: if either argument is out of range.
    """
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    if not 0 <= last <= 1:
        raise ValueError(f"the last drop probability must lie in [0, 1], got {last}")
    return [last * block / blocks for block in range(1, blocks + 1)]
