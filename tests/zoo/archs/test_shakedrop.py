"""ShakeDrop against its formula, and its draws against the distributions of the paper."""

import math

import pytest
import torch
from torch import Tensor

from zoo.archs.shakedrop import ShakeDrop, linear_drop_probs, shake_drop


def factors(layer: ShakeDrop, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The forward and the backward factor of every element in one training pass."""
    x = torch.ones(shape, requires_grad=True)
    out = layer(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    return out.detach(), grad


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_forward_and_backward_follow_the_formula(gate: float) -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    alpha, beta = (-0.75, 0.0, 0.5), (0.25, 1.0, 0.125)
    out = shake_drop(
        x,
        torch.full((1, 1, 1, 1), gate),
        torch.tensor(alpha).reshape(3, 1, 1, 1),
        torch.tensor(beta).reshape(3, 1, 1, 1),
    )
    (grad,) = torch.autograd.grad(out, x, upstream)
    for sample, (a, b) in enumerate(zip(alpha, beta, strict=True)):
        torch.testing.assert_close(out[sample], (gate + a - gate * a) * x[sample])
        torch.testing.assert_close(grad[sample], (gate + b - gate * b) * upstream[sample])


def test_a_kept_branch_is_untouched() -> None:
    """Summed in the formula's order, gate + alpha - gate * alpha would be off by a rounding error."""
    x = torch.randn(64, 3, 2, 2)
    out = shake_drop(x, torch.ones(1, 1, 1, 1), torch.rand(64, 1, 1, 1), torch.rand(64, 1, 1, 1))
    assert torch.equal(out, x)


def test_a_dropped_branch_draws_alpha_and_beta_uniformly_for_each_sample() -> None:
    ahead, back = factors(ShakeDrop(1.0), (20_000, 2, 1, 3))
    for factor, low, high in ((ahead, -1.0, 1.0), (back, 0.0, 1.0)):
        assert torch.equal(factor, factor[:, :1, :, :1].expand_as(factor))
        draws = factor[:, 0, 0, 0]
        assert low <= draws.min() < low + 0.01
        assert high - 0.01 < draws.max() <= high
        deviation = (high - low) / math.sqrt(12)
        assert draws.mean().item() == pytest.approx((low + high) / 2, abs=4 * deviation / math.sqrt(20_000))
        assert draws.std().item() == pytest.approx(deviation, rel=0.02)
    correlation = torch.corrcoef(torch.stack([ahead[:, 0, 0, 0], back[:, 0, 0, 0]]))[0, 1]
    assert abs(correlation.item()) < 4 / math.sqrt(20_000)


def test_one_gate_rules_the_batch_in_both_directions() -> None:
    layer, passes, kept = ShakeDrop(0.3), 2_000, 0
    for _ in range(passes):
        ahead, back = factors(layer, (4, 1))
        ones = (ahead == 1).sum().item()
        assert ones in (0, 4)
        assert ((back == 1).sum().item() == 4) == (ones == 4)
        kept += ones == 4
    assert kept / passes == pytest.approx(0.7, abs=4 * math.sqrt(0.3 * 0.7 / passes))


def test_per_sample_gates_differ_within_a_batch() -> None:
    ahead, back = factors(ShakeDrop(0.3, per_sample_gate=True), (20_000, 1, 1, 1))
    assert torch.equal(ahead == 1, back == 1)
    assert (ahead == 1).float().mean().item() == pytest.approx(0.7, abs=4 * math.sqrt(0.3 * 0.7 / 20_000))


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_evaluation_is_the_expected_training_pass(p: float) -> None:
    layer = ShakeDrop(p, per_sample_gate=True)
    ahead, back = factors(layer, (100_000, 1))
    layer.eval()
    eval_ahead, eval_back = factors(layer, (1, 1))
    assert eval_ahead.item() == eval_back.item() == 1 - p
    # Var = (1 - p) + p / 3 - (1 - p)^2, at most 1/2 or so; five deviations of the mean.
    assert ahead.mean().item() == pytest.approx(1 - p, abs=5 * math.sqrt(0.5 / 100_000))
    assert back.mean().item() == pytest.approx(1 - p / 2, abs=5 * math.sqrt(0.5 / 100_000))


def test_precision_and_layout_are_kept() -> None:
    x = torch.randn(4, 8, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    out = ShakeDrop(0.5)(x)
    (grad,) = torch.autograd.grad(out.float().sum(), x)
    assert out.dtype == grad.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_compiles_into_one_graph_with_the_same_draws() -> None:
    layer = ShakeDrop(0.5, per_sample_gate=True)
    x = torch.randn(16, 2, 2, 2, requires_grad=True)
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        out = run(x)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), x)))
    torch.testing.assert_close(results[0], results[1])


def test_linear_drop_probs() -> None:
    assert linear_drop_probs(4) == [0.125, 0.25, 0.375, 0.5]
    assert linear_drop_probs(2, last=1.0) == [0.5, 1.0]
    assert linear_drop_probs(3, last=0.0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_probabilities_are_checked(p: float) -> None:
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got"):
        ShakeDrop(p)
    with pytest.raises(ValueError, match=r"last drop probability must lie in \[0, 1\], got"):
        linear_drop_probs(3, last=p)


def test_the_number_of_blocks_is_checked() -> None:
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        linear_drop_probs(0)
