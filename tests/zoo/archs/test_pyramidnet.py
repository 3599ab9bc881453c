"""PyramidNet against the paper's counts, its block structure, and a plain rendering of its block."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from zoo.archs.pyramidnet import VARIANTS, PyramidBlock, PyramidNet
from zoo.archs.shakedrop import ShakeDrop

PARAMETERS = {
    "pyramid272": 26_210_842,
    "pyramid110-a270": 28_485_477,
    "pyramid110-a84": 3_904_446,
    "pyramid110-a48": 1_772_706,
}
# Billions for one 32x32 image, to the digits that DESIGN.md gives.
MULTIPLY_ADDS = {"pyramid272": 4.5, "pyramid110-a270": 4.7, "pyramid110-a84": 0.78, "pyramid110-a48": 0.41}


def on_meta(name: str) -> PyramidNet:
    with torch.device("meta"):
        return PyramidNet(**VARIANTS[name]).eval()


def reference_block(block: PyramidBlock, x: Tensor, stride: int) -> Tensor:
    """The block as the paper draws it: BN first without ReLU, BN after every convolution, ReLU between them only."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]

    def norm(y: Tensor, n: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias)

    strided = 0 if len(convs) == 2 else 1  # the first 3x3 convolution
    y = norm(x, norms[0])
    for i, conv in enumerate(convs):
        y = F.relu(y) if i > 0 else y
        y = F.conv2d(y, conv.weight, stride=stride if i == strided else 1, padding=conv.weight.shape[-1] // 2)
        y = norm(y, norms[i + 1])
    n, c, h, w = x.shape
    shortcut = x.reshape(n, c, h // stride, stride, w // stride, stride).mean((3, 5))
    return torch.cat([y[:, :c] + shortcut, y[:, c:]], dim=1)


def test_every_variant_has_its_figures() -> None:
    assert set(VARIANTS) == set(PARAMETERS) == set(MULTIPLY_ADDS)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_multiply_adds(
    name: str, count_parameters: Callable[[nn.Module], int], multiply_adds: Callable[[nn.Module], int]
) -> None:
    net = on_meta(name)
    assert count_parameters(net) == PARAMETERS[name]
    digits = 2 if MULTIPLY_ADDS[name] < 1 else 1
    assert round(multiply_adds(net) / 1e9, digits) == MULTIPLY_ADDS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_widths_are_rounded_sums_of_equal_steps(name: str) -> None:
    bottleneck = VARIANTS[name].get("bottleneck", False)
    blocks = 3 * (VARIANTS[name]["depth"] - 2) // (9 if bottleneck else 6)
    net = on_meta(name)
    assert len(net.blocks) == blocks
    exact, width_in = Fraction(16), 16
    for block in net.blocks:
        exact += Fraction(VARIANTS[name]["alpha"], blocks)
        width = int(exact + Fraction(1, 2))
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert [c.kernel_size[0] for c in convs] == ([1, 3, 1] if bottleneck else [3, 3])
        width_out = 4 * width if bottleneck else width
        expected = [width_in, width, width, width_out] if bottleneck else [width_in, width, width]
        assert [convs[0].in_channels, *(c.out_channels for c in convs)] == expected
        width_in = width_out
    assert exact == 16 + VARIANTS[name]["alpha"]


def test_order_of_layers() -> None:
    norm, conv, relu = nn.BatchNorm2d, nn.Conv2d, nn.ReLU
    basic = PyramidBlock(4, 6, 1, nn.Identity(), bottleneck=False)
    assert [type(m) for m in basic.branch] == [norm, conv, norm, relu, conv, norm]
    bottleneck = PyramidBlock(4, 6, 1, nn.Identity(), bottleneck=True)
    assert [type(m) for m in bottleneck.branch] == [norm, conv, norm, relu, conv, norm, relu, conv, norm]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_block_equals_its_plain_rendering(
    stride: int, randomise_norms: Callable[[nn.Module], None], *, bottleneck: bool
) -> None:
    block = PyramidBlock(5, 7, stride, nn.Identity(), bottleneck=bottleneck).double().eval()
    randomise_norms(block)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x, stride))


def test_shortcut_averages_and_pads_with_zeros() -> None:
    block = PyramidBlock(2, 3, 2, nn.Identity(), bottleneck=False)
    last = block.branch[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1, 2, 1, 1)
    out = block(x)
    assert out[0, 0].tolist() == out[0, 1].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert out[0, 2].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_groups_halve_the_image_twice() -> None:
    net = PyramidNet(depth=20, alpha=9)
    x, sizes = net.stem(torch.randn(2, 3, 32, 32)), []
    for block in net.blocks:
        x = block(x)
        sizes.append(x.shape[-1])
    assert sizes == [32] * 3 + [16] * 3 + [8] * 3


def test_network_ends_in_norm_relu_mean_and_head(randomise_norms: Callable[[nn.Module], None]) -> None:
    net = PyramidNet(depth=8, alpha=6).eval()
    randomise_norms(net)
    images = torch.randn(2, 3, 8, 8)
    features = net.blocks(net.stem[1](net.stem[0](images)))
    norm, head = net.norm, net.head
    active = F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
    torch.testing.assert_close(net(images), active.flatten(2).mean(2) @ head.weight.T + head.bias)


def test_shakedrop_grows_linearly_and_adds_no_state() -> None:
    net = PyramidNet(depth=20, alpha=9, shakedrop=0.5)
    layers = [m for m in net.modules() if isinstance(m, ShakeDrop)]
    assert [m.p for m in layers] == pytest.approx([0.5 * block / 9 for block in range(1, 10)])
    plain = PyramidNet(depth=20, alpha=9)
    assert not any(isinstance(m, ShakeDrop) for m in plain.modules())
    plain.load_state_dict(net.state_dict())


def test_shakedrop_scales_the_branch_and_never_the_shortcut() -> None:
    block = PyramidBlock(4, 4, 1, ShakeDrop(0.25), bottleneck=False).eval()
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(x), x + 0.75 * block.branch(x))


def test_options_reach_every_block() -> None:
    net = PyramidNet(depth=20, alpha=9, shakedrop=0.5, shakedrop_gate="sample")
    assert [m.per_sample_gate for m in net.modules() if isinstance(m, ShakeDrop)] == [True] * 9
    net = PyramidNet(depth=20, alpha=9, stochastic_depth=0.3)
    layers = [m for m in net.modules() if isinstance(m, StochasticDepth)]
    assert [layer.p for layer in layers] == pytest.approx([0.3 * block / 9 for block in range(1, 10)])
    assert [block.drop for block in net.blocks] == layers


def test_stochastic_depth_never_scales_the_shortcut() -> None:
    block = PyramidBlock(4, 4, 1, StochasticDepth(1.0, mode="row"), bottleneck=False)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    block = PyramidNet(depth=8, alpha=240).blocks[-1]
    assert isinstance(block, PyramidBlock)
    conv = block.branch[1]
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels) == (176, 256)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("depth", "bottleneck"), [(14, False), (20, True)])
def test_bf16_autocast_in_channels_last(
    depth: int, check_bf16_autocast: Callable[[nn.Module, Tensor], None], *, bottleneck: bool
) -> None:
    net = PyramidNet(7, depth, 20, bottleneck=bottleneck, in_channels=1).eval()
    images = torch.randn(4, 1, 16, 24)
    check_bf16_autocast(net, images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, r"depth must be 6n \+ 2 with n >= 1 for basic blocks, got 21"),
        ({"depth": 2}, r"depth must be 6n \+ 2 with n >= 1 for basic blocks, got 2"),
        ({"depth": 14, "bottleneck": True}, r"depth must be 9n \+ 2 with n >= 1 for bottleneck blocks, got 14"),
        ({"alpha": -1}, "alpha must not be negative, got -1"),
        ({"shakedrop": 1.5}, r"drop probability must lie in \[0, 1\], got 1.5"),
        ({"stochastic_depth": 1.5}, r"drop probability must lie in \[0, 1\], got 1.5"),
        ({"shakedrop": 0.5, "stochastic_depth": 0.5}, "shakedrop and stochastic_depth both drop branches"),
        ({"shakedrop_gate": "image"}, "shakedrop_gate must be one of batch, sample, got 'image'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PyramidNet(**arguments)
