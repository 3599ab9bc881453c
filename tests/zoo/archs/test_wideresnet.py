"""WideResNet against closed-form and published counts, and its block against a plain rendering."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def on_meta(name: str, classes: int = 10) -> WideResNet:
    with torch.device("meta"):
        return WideResNet(classes, **VARIANTS[name]).eval()


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def closed_form(depth: int, width: int, classes: int) -> int:
    """Parameters by hand: 3x3 and 1x1 kernels without bias, two for each normalised channel, and the head."""
    total, width_in = 3 * 9 * 16, 16
    for width_out in (16 * width, 32 * width, 64 * width):
        first = 9 * width_in * width_out + 9 * width_out**2 + width_in * width_out + 2 * width_in + 2 * width_out
        total += first + ((depth - 4) // 6 - 1) * (18 * width_out**2 + 4 * width_out)
        width_in = width_out
    return total + 2 * width_in + (width_in + 1) * classes


def multiply_adds(net: nn.Module) -> int:
    """Those of convolutions and the head, and two for each element that a BatchNorm puts out (as the table counts)."""
    norm_elements = 0

    def count(_module: nn.Module, _args: object, out: Tensor) -> None:
        nonlocal norm_elements
        norm_elements += out.numel()

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    return int(counter.get_total_flops()) // 2 + 2 * norm_elements


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters(name: str) -> None:
    assert count_parameters(on_meta(name)) == PARAMETERS[name] == closed_form(**VARIANTS[name], classes=10)


@pytest.mark.parametrize(("name", "classes", "millions"), PUBLISHED)
def test_published_parameters(name: str, classes: int, millions: float) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(count_parameters(on_meta(name, classes)) / 1e6, digits) == millions


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds(name: str) -> None:
    assert round(multiply_adds(on_meta(name)) / 1e9, 2) == MULTIPLY_ADDS[name]


def with_random_norms(module: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and an affine map of its own, so that none can stand in for another."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


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
def test_block_equals_its_plain_rendering(width_in: int, width_out: int, stride: int) -> None:
    block = WideBlock(width_in, width_out, stride, 0.0, 0.0).double().eval()
    with_random_norms(block)
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


def test_network_ends_in_norm_relu_mean_and_head() -> None:
    net = with_random_norms(WideResNet(depth=10, width=1)).eval()
    images = torch.randn(2, 3, 8, 8)
    features = net.blocks(F.conv2d(images, net.stem.weight, padding=1))
    norm, head = net.activate[0], net.head
    active = F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
    torch.testing.assert_close(net(images), active.flatten(2).mean(2) @ head.weight.T + head.bias)


def test_dropout_acts_between_the_convolutions_in_training_only() -> None:
    block = WideBlock(4, 8, 1, 0.3, 0.0)
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
    block = WideBlock(4, 8, 2, 0.0, 0.25).eval()
    x = torch.randn(2, 4, 8, 8)
    active = block.activate(x)
    torch.testing.assert_close(block(x), block.projection(active) + 0.75 * block.branch(active))


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    net = WideResNet(depth=10, width=4)
    assert net.blocks[2].branch[0].weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert not net.head.bias.any()


def test_bf16_autocast_in_channels_last() -> None:
    net = WideResNet(7, 10, 2, in_channels=1).eval()
    images = torch.randn(4, 1, 16, 24)
    expected = net(images)
    assert expected.shape == (4, 7)
    net = net.to(memory_format=torch.channels_last)
    features = []
    net.blocks.register_forward_hook(lambda _module, _args, out: features.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images.to(memory_format=torch.channels_last))
    assert features[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 26}, r"depth must be 6n \+ 4 with n >= 1, got 26"),
        ({"depth": 4}, r"depth must be 6n \+ 4 with n >= 1, got 4"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"shakedrop": 1.5}, r"drop probability must lie in \[0, 1\], got 1.5"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        WideResNet(**arguments)
