"""Merging on tensors: what `ensemble.merge` does with stored logits, on the device that computed them."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ensemble.merge import Merge

__all__ = ["merge_log_probs"]

_TINY = 1e-12


def merge_log_probs(
    logs: Tensor, weights: Tensor, view_weights: Tensor, how: Merge, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge M members under V views; `ensemble.merge.merge` says how, and a test holds the two together.

    Args:
        logs: log-probabilities `[M, V, N, C]`.
        weights: of the members, `[M]`, with sum 1.
        view_weights: `[V]`, with sum 1.
        how: `probs`, `logits` or `vote`.
        temperature: of the ensemble, above 0; a vote has none.

    Returns:
        Merged probabilities `[N, C]`, top classes `[N]`, and each member's own probabilities `[M, N, C]`.
    """
    by_member = torch.einsum("v,mvnc->mnc", view_weights, logs.exp())
    if how == "logits":
        own = torch.einsum("v,mvnc->mnc", view_weights, logs).softmax(-1)
        probs = (torch.einsum("m,v,mvnc->nc", weights, view_weights, logs) / temperature).softmax(-1)
        return probs, probs.argmax(-1), own
    mean = torch.einsum("m,mnc->nc", weights, by_member)
    if how == "vote":
        votes = one_hot(by_member.argmax(-1), mean.shape[-1]).to(mean.dtype)
        probs = torch.einsum("m,mnc->nc", weights, votes)
        tied = probs >= probs.amax(-1, keepdim=True) - len(logs) * torch.finfo(probs.dtype).eps
        return probs, torch.where(tied, mean, -1.0).argmax(-1), by_member
    probs = (mean.clamp_min(_TINY).log() / temperature).softmax(-1) if temperature != 1 else mean
    return probs, mean.argmax(-1), by_member
