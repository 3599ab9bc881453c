"""What randomly drops the residual branches of a network: ShakeDrop, stochastic depth, or nothing.

G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic Depth" (arXiv:1603.09382), section 3;
Y. Yamada, M. Iwamura, T. Akiba, K. Kise, "ShakeDrop Regularization for Deep Residual Learning" (arXiv:1802.02375).
"""

from typing import Literal, get_args

from torch import nn

from zoo.archs.shakedrop import ShakeDrop, linear_drop_probs

__all__ = ["Gate", "branch_drops"]

Gate = Literal["batch", "sample"]
"""Whether ShakeDrop draws one gate a batch, as in the paper, or one for each sample."""


def branch_drops(
    blocks: int, *, shakedrop: float = 0.0, stochastic_depth: float = 0.0, gate: Gate = "batch"
) -> list[nn.Module]:
    """Return one layer for the output of each block's residual branch; drop probabilities grow linearly with depth.

    A dropped branch gives zero under stochastic depth, for each sample on its own, and a kept one is scaled by
    1 / (1 - p) in training, so that nothing is scaled in evaluation. See `ShakeDrop` for the other.

    Args:
        blocks: number of residual blocks L, at least 1.
        shakedrop: ShakeDrop's drop probability at the last block, in [0, 1]; block l of L has `shakedrop * l / L`.
        stochastic_depth: drop probability of stochastic depth at the last block, likewise.
        gate: ShakeDrop's gate.

    Returns:
        L modules without parameters or buffers, `[N, ...]` -> the same; identities if both probabilities are zero.

    Raises:
        ValueError: if a probability is out of range, both are above zero, or `gate` is not one of `Gate`'s.
    """
    if gate not in get_args(Gate):
        raise ValueError(f"shakedrop_gate must be one of {', '.join(get_args(Gate))}, got {gate!r}")
    if shakedrop and stochastic_depth:
        raise ValueError("shakedrop and stochastic_depth both drop branches: set one of them to 0")
    probs = linear_drop_probs(blocks, shakedrop or stochastic_depth)
    if shakedrop:
        return [ShakeDrop(p, per_sample_gate=gate == "sample") for p in probs]
    if stochastic_depth:
        # torchvision takes almost as long to import as torch, and no other network needs it.
        from torchvision.ops import StochasticDepth  # noqa: PLC0415

        return [StochasticDepth(p, mode="row") for p in probs]
    return [nn.Identity() for _ in probs]
