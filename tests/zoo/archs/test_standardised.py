"""Weight standardisation against its formula in numpy, and the layer against a plain convolution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.archs.standardised import StandardisedConv2d, group_norm, standardise


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_every_filter_follows_the_formula(eps: float) -> None:
    weight = torch.randn(5, 3, 2, 4, dtype=torch.float64) * 3 + 1
    got = standardise(weight, eps)
    for filters, wanted in zip(got.numpy(), weight.numpy(), strict=True):
        np.testing.assert_allclose(filters, (wanted - wanted.mean()) / np.sqrt(wanted.var() + eps))


def test_gradients_pass_through_mean_and_variance() -> None:
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardise, (weight,))
    (grad,) = torch.autograd.grad(standardise(weight, 0.0).square().sum() + standardise(weight, 0.0)[0].sum(), weight)
    assert grad.abs().max() < 1e-9  # the sum of squares and the sum of a standardised filter are constants


@pytest.mark.parametrize(("stride", "bias"), [(1, False), (2, True)])
def test_the_layer_convolves_with_standardised_filters_and_keeps_its_own(stride: int, *, bias: bool) -> None:
    conv = StandardisedConv2d(3, 6, 3, stride, padding=1, bias=bias)
    before = conv.weight.detach().clone()
    x = torch.randn(2, 3, 8, 8)
    mean = before.mean((1, 2, 3), keepdim=True)
    deviation = before.var((1, 2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    expected = F.conv2d(x, (before - mean) / deviation, conv.bias, stride, padding=1)
    torch.testing.assert_close(conv(x), expected)
    assert torch.equal(conv.weight, before)
    assert {name: p.shape for name, p in conv.state_dict().items()} == {
        name: p.shape for name, p in nn.Conv2d(3, 6, 3, bias=bias).state_dict().items()
    }


@pytest.mark.parametrize(
    ("width", "groups"), [(16, 4), (32, 8), (64, 16), (128, 32), (256, 32), (512, 32), (20, 5), (7, 1), (2, 1)]
)
def test_groups(width: int, groups: int) -> None:
    norm = group_norm(width)
    assert (norm.num_groups, norm.num_channels) == (groups, width)
