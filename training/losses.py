"""Losses: labels or class probabilities as targets, and a teacher's soft answers."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss", "hits"]

_IMPOSSIBLE = -1e4
"""A logarithm whose exponential is 0."""


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 KL(softmax(teacher / T) || softmax(logits / T))`, the mean over a batch.

    The factor keeps the gradient's size from falling with 1 / T^2 (G. Hinton, O. Vinyals, J. Dean, "Distilling the
    Knowledge in a Neural Network", arXiv:1503.02531, section 2). It is zero where the answers agree.

    Args:
        logits: the student's, `[N, C]`.
        teacher: logits or log-probabilities `[N, C]`, some of them perhaps -inf; no gradient goes there.
        temperature: T, above 0.
    """
    soft = functional.log_softmax(logits.float() / temperature, 1)
    wanted = functional.log_softmax(teacher.detach().float() / temperature, 1)
    wanted = wanted.clamp_min(_IMPOSSIBLE)  # 0 * log 0 is 0 in the divergence, and NaN in floating point
    return functional.kl_div(soft, wanted, reduction="batchmean", log_target=True) * temperature**2


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Count the top-1 answers that are right.

    Args:
        logits: `[N, C]`.
        targets: labels `[N]`, or class probabilities `[N, C]`, of which the largest counts.

    Returns:
        A scalar.
    """
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    return torch.eq(logits.argmax(1), labels).sum()
