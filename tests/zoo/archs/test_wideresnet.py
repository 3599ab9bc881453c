"""WideResNet against closed-form and published counts, and its block against a plain rendering."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from zoo.archs.shakedrop import ShakeDrop
from zoo.archs.wideresnet import VARIANTS, WideBlock, WideResNet

PARAMETERS = {
    "wrn16-2": 691_674,
    "wrn16-4": 2_748_890,
    "wrn28-2": 1_467_610,
    "wrn28-10": 36_479_194,
    "wrn40-2": 2_243_546,
    "wrn40-4": 8_949_210,
    "wrn40-10": 55_841_754,
}
# Variant, classes, millions to the digits given by DESIGN.md or the paper: 55.9 M is WRN-40-10 with 100 classes.
PUBLISHED = [("wrn28-10", 10, 36.48), ("wrn40-10", 100, 55.9), ("wrn40-2", 10, 2.2), ("wrn40-4", 10, 8.9)]
# Billions for one 32x32 image, to the digits that DESIGN.md gives.
MULTIPLY_ADDS = {"wrn28-10": 5.25, "wrn40-10": 8.08}


def on_meta(name: str, classes: int = 10) -> WideResNet:
    with torch.device("meta"):
        return WideResNet(classes, **VARIANTS[name]).eval()


def closed_form(depth: int, width: int, classes: int) -> int:
    """Parameters by hand: 3x3 and 1x1 kernels without bias, two for each normalised channel, and the head."""
    total, width_in = 3 * 9 * 16, 16
    for width_out in (16 * width, 32 * width, 64 * width):
        first = 9 * width_in * width_out + 9 * width_out**2 + width_in * width_out + 2 * width_in + 2 * width_out
        total += first + ((depth - 4) // 6 - 1) * (18 * width_out**2 + 4 * width_out)
        width_in = width_out
    return total + 2 * width_in + (width_in + 1) * classes


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters(name: str, count_parameters: Callable[[nn.Module], int]) -> None:
    assert count_parameters(on_meta(name)) == PARAMETERS[name] == closed_form(**VARIANTS[name], classes=10)


@pytest.mark.parametrize(("name", "classes", "millions"), PUBLISHED)
def test_published_parameters(
    name: str, classes: int, millions: float, count_parameters: Callable[[nn.Module], int]
) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(count_parameters(on_meta(name, classes)) / 1e6, digits) == millions


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds(name: str, multiply_adds: Callable[[nn.Module], int]) -> None:
    assert round(multiply_adds(on_meta(name)) / 1e9, 2) == MULTIPLY_ADDS[name]


def reference_block(block: WideBlock, x: Tensor, stride: int) -> Tensor:
    """BN, ReLU, conv twice; a shortcut that changes the shape starts from the first ReLU."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in block.branch if isinstance(m, nn.Conv2d)]

    def activate(y: Tensor, n: nn.BatchNorm2d) -> Tensor:
        return F.relu(F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias))

    active = activate(x, norms[0])
    y = activate(F.conv2d(active, convs[0].weight, stride=stride, padding=1), norms[1])
    y = F.conv2d(y, convs[1].weight, padding=1)
    if block.projection is None:
        return y + x
    return y + torch.einsum("oc,nchw->nohw", block.projection.weight[:, :, 0, 0], active[:, :, ::stride, ::stride])


@pytest.mark.parametrize(("width_in", "width_out", "stride"), [(5, 5, 1), (5, 7, 1), (5, 5, 2), (5, 7, 2)])
def test_block_equals_its_plain_rendering(
    width_in: int, width_out: int, stride: int, randomise_norms: Callable[[nn.Module], None]
) -> None:
    block = WideBlock(width_in, width_out, stride, 0.0, nn.Identity()).double().eval()
    randomise_norms(block)
    assert (block.projection is None) == ((width_in, stride) == (width_out, 1))
    x = torch.randn(2, width_in, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x, stride))


def test_groups_have_the_papers_widths_and_sizes() -> None:
    net = WideResNet(depth=16, width=2)
    x, shapes = net.stem(torch.randn(1, 3, 32, 32)), []
    assert x.shape == (1, 16, 32, 32)
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 32, 32)] * 2 + [(64, 16, 16)] * 2 + [(128, 8, 8)] * 2


def test_network_ends_in_norm_relu_mean_and_head(randomise_norms: Callable[[nn.Module], None]) -> None:
    net = WideResNet(depth=10, width=1).eval()
    randomise_norms(net)
    images = torch.randn(2, 3, 8, 8)
    features = net.blocks(F.conv2d(images, net.stem.weight, padding=1))
    norm, head = net.activate[0], net.head
    assert isinstance(norm, nn.BatchNorm2d)
    active = F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
    torch.testing.assert_close(net(images), active.flatten(2).mean(2) @ head.weight.T + head.bias)


def test_dropout_acts_between_the_convolutions_in_training_only() -> None:
    block = WideBlock(4, 8, 1, 0.3, nn.Identity())
    norm, conv, relu = nn.BatchNorm2d, nn.Conv2d, nn.ReLU
    assert [type(m) for m in block.activate] == [norm, relu]
    assert [type(m) for m in block.branch] == [conv, norm, relu, nn.Dropout, conv]
    assert block.branch[3].p == 0.3
    x = torch.randn(2, 4, 8, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_shakedrop_grows_linearly_and_adds_no_state() -> None:
    net = WideResNet(depth=16, width=1, shakedrop=0.5)
    layers = [m for m in net.modules() if isinstance(m, ShakeDrop)]
    assert [m.p for m in layers] == pytest.approx([0.5 * block / 6 for block in range(1, 7)])
    plain = WideResNet(depth=16, width=1)
    assert not any(isinstance(m, ShakeDrop) for m in plain.modules())
    plain.load_state_dict(net.state_dict())


def test_shakedrop_scales_the_branch_and_never_the_shortcut() -> None:
    block = WideBlock(4, 8, 2, 0.0, ShakeDrop(0.25)).eval()
    x = torch.randn(2, 4, 8, 8)
    active = block.activate(x)
    assert block.projection is not None
    torch.testing.assert_close(block(x), block.projection(active) + 0.75 * block.branch(active))


def test_options_reach_every_block() -> None:
    net = WideResNet(depth=16, width=1, shakedrop=0.5, shakedrop_gate="sample")
    assert [m.per_sample_gate for m in net.modules() if isinstance(m, ShakeDrop)] == [True] * 6
    net = WideResNet(depth=16, width=1, stochastic_depth=0.3)
    layers = [m for m in net.modules() if isinstance(m, StochasticDepth)]
    assert [layer.p for layer in layers] == pytest.approx([0.3 * block / 6 for block in range(1, 7)])
    assert [block.drop for block in net.blocks] == layers


def test_stochastic_depth_never_scales_the_shortcut() -> None:
    block = WideBlock(4, 8, 2, 0.0, StochasticDepth(1.0, mode="row"))
    x = torch.randn(2, 4, 8, 8)
    assert block.projection is not None
    torch.testing.assert_close(block(x), block.projection(block.activate(x)))


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    net = WideResNet(depth=10, width=4)
    block = net.blocks[2]
    assert isinstance(block, WideBlock)
    conv = block.branch[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert not net.head.bias.any()


def test_bf16_autocast_in_channels_last(check_bf16_autocast: Callable[[nn.Module, Tensor], None]) -> None:
    net = WideResNet(7, 10, 2, in_channels=1).eval()
    images = torch.randn(4, 1, 16, 24)
    check_bf16_autocast(net, images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 26}, r"depth must be 6n \+ 4 with n >= 1, got 26"),
        ({"depth": 4}, r"depth must be 6n \+ 4 with n >= 1, got 4"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"shakedrop": 1.5}, r"drop probability must lie in \[0, 1\], got 1.5"),
        ({"stochastic_depth": 1.5}, r"drop probability must lie in \[0, 1\], got 1.5"),
        ({"shakedrop": 0.5, "stochastic_depth": 0.5}, "shakedrop and stochastic_depth both drop branches"),
        ({"shakedrop_gate": "image"}, "shakedrop_gate must be one of batch, sample, got 'image'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        WideResNet(**arguments)
