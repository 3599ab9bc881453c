"""Which layers residual branches go through, and that stochastic depth is what the paper says in expectation."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from zoo.archs.branch_drop import branch_drops
from zoo.archs.shakedrop import ShakeDrop


def test_nothing_is_dropped_by_default() -> None:
    assert [type(layer) for layer in branch_drops(3)] == [nn.Identity] * 3


@pytest.mark.parametrize(("gate", "per_sample"), [("batch", False), ("sample", True)])
def test_shakedrop(gate: Any, *, per_sample: bool) -> None:  # noqa: ANN401
    layers = branch_drops(4, shakedrop=0.5, gate=gate)
    shakes = [layer for layer in layers if isinstance(layer, ShakeDrop)]
    assert [layer.p for layer in shakes] == [0.125, 0.25, 0.375, 0.5]
    assert [layer.per_sample_gate for layer in shakes] == [per_sample] * 4


def test_stochastic_depth() -> None:
    layers = branch_drops(4, stochastic_depth=0.2)
    assert all(isinstance(layer, StochasticDepth) for layer in layers)
    assert [layer.p for layer in layers] == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_stochastic_depth_keeps_the_expectation_and_leaves_evaluation_alone() -> None:
    """Scaled once: by 1 / (1 - p) in training, and so not in evaluation."""
    layer = branch_drops(1, stochastic_depth=0.25)[0]
    images = 20_000
    factors = layer(torch.ones(images, 2, 1, 3))
    assert torch.equal(factors, factors[:, :1, :, :1].expand_as(factors))
    assert factors[:, 0, 0, 0].unique().tolist() == pytest.approx([0, 4 / 3])
    deviation = (4 / 3) * math.sqrt(0.25 * 0.75 / images)
    assert factors.mean().item() == pytest.approx(1, abs=4 * deviation)
    x = torch.randn(3, 2, 1, 3)
    assert torch.equal(layer.eval()(x), x)


def test_layers_hold_no_state() -> None:
    layers = nn.ModuleList(branch_drops(3, shakedrop=0.5) + branch_drops(3, stochastic_depth=0.5))
    assert not layers.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shakedrop": 1.5}, r"last drop probability must lie in \[0, 1\], got 1.5"),
        ({"stochastic_depth": -0.5}, r"last drop probability must lie in \[0, 1\], got -0.5"),
        ({"stochastic_depth": math.nan}, r"last drop probability must lie in \[0, 1\], got nan"),
        ({"shakedrop": 0.5, "stochastic_depth": 0.5}, "both drop branches: set one of them to 0"),
        ({"gate": "row"}, "shakedrop_gate must be one of batch, sample, got 'row'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        branch_drops(3, **arguments)
