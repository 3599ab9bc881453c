"""ResNet against closed-form and published counts, and its block against a plain rendering."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from zoo.archs.resnet import VARIANTS, ResBlock, ResNet, SubsampledShortcut
from zoo.archs.standardised import StandardisedConv2d

# Millions of parameters: table 6 of the paper.
PAPER_MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}


def on_meta(name: str) -> ResNet:
    with torch.device("meta"):
        return ResNet(**VARIANTS[name]).eval()


def closed_form(depth: int, *, projection: bool) -> int:
    """Parameters by hand: kernels without bias, two for each normalised channel, and the head of 10 classes."""
    total, width_in = 3 * 9 * 16 + 2 * 16, 16
    for width in (16, 32, 64):
        convs = (depth - 2) // 3
        total += 9 * width_in * width + (convs - 1) * 9 * width**2 + convs * 2 * width
        if projection and width != width_in:
            total += width_in * width + 2 * width
        width_in = width
    return total + 65 * 10


def test_variants() -> None:
    names = {f"resnet{depth}{option}" for depth in PAPER_MILLIONS for option in ("", "-a")}
    assert set(VARIANTS) == names | {"resnet18"}


@pytest.mark.parametrize("depth", PAPER_MILLIONS)
def test_parameters(depth: int, count_parameters: Callable[[nn.Module], int]) -> None:
    plain = count_parameters(on_meta(f"resnet{depth}-a"))
    assert plain == closed_form(depth, projection=False)
    assert count_parameters(on_meta(f"resnet{depth}")) == closed_form(depth, projection=True)
    # The paper cuts 1.728 M and 0.464 M short; it never errs by more than the next digit.
    assert plain / 1e6 == pytest.approx(PAPER_MILLIONS[depth], rel=0.02)


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 272_474), ("resnet20-a", 269_722)])
def test_resnet20_to_the_digit(name: str, parameters: int, count_parameters: Callable[[nn.Module], int]) -> None:
    net = on_meta(name)
    assert count_parameters(net) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    assert round(counter.get_total_flops() / 2 / 1e6) == 41


def test_resnet18_has_the_parameters_of_the_papers_but_for_stem_and_head(
    count_parameters: Callable[[nn.Module], int], multiply_adds: Callable[[nn.Module], int]
) -> None:
    net = on_meta("resnet18")
    with torch.device("meta"):
        imagenet = torchvision.models.resnet18(num_classes=10)
    # A 3x3 stem instead of a 7x7 one.
    assert count_parameters(net) == count_parameters(imagenet) - 64 * 3 * (49 - 9)
    assert round(count_parameters(net) / 1e6, 2) == 11.17
    assert round(multiply_adds(net) / 1e9, 2) == 0.56
    assert count_parameters(ResNet(100, **VARIANTS["resnet18"])) == count_parameters(net) + 90 * 513


def test_resnet18_halves_the_image_three_times() -> None:
    net = on_meta("resnet18")
    x, shapes = net.stem(torch.empty(1, 3, 32, 32, device="meta")), []
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2


def reference_block(block: ResBlock, x: Tensor) -> Tensor:
    """Conv, BN, ReLU, conv, BN, plus a stride-2 1x1 convolution with BN, then ReLU."""
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]

    def norm(y: Tensor, n: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias)

    y = F.relu(norm(F.conv2d(x, convs[0].weight, stride=2, padding=1), norms[0]))
    y = norm(F.conv2d(y, convs[1].weight, padding=1), norms[1])
    shortcut = torch.einsum("oc,nchw->nohw", convs[2].weight[:, :, 0, 0], x[:, :, ::2, ::2])
    return F.relu(y + norm(shortcut, norms[2]))


def test_block_with_projection_equals_its_plain_rendering(randomise_norms: Callable[[nn.Module], None]) -> None:
    block = ResBlock(5, 7, 2, nn.Identity(), projection=True).double().eval()
    randomise_norms(block)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x))


def test_option_a_takes_every_second_pixel_and_appends_zeros() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = SubsampledShortcut(2, 2)(x)
    assert out.tolist() == [[[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]]


@pytest.mark.parametrize("projection", [True, False])
def test_only_blocks_that_change_the_shape_have_a_shortcut_of_their_own(*, projection: bool) -> None:
    net = ResNet(depth=20, projection=projection)
    own = nn.Sequential if projection else SubsampledShortcut
    identity = nn.Identity
    kinds = [type(block.shortcut) for block in net.blocks]
    assert kinds == [identity] * 3 + [own, identity, identity] * 2
    x, shapes = net.stem(torch.randn(1, 3, 32, 32)), []
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_an_identity_block_without_its_branch_is_a_relu() -> None:
    block = ResBlock(4, 4, 1, nn.Identity(), projection=True)
    last = block.branch[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.clamp(min=0))


def test_network_starts_with_conv_norm_relu_and_ends_in_mean_and_head(
    randomise_norms: Callable[[nn.Module], None],
) -> None:
    net = ResNet(depth=8).eval()
    randomise_norms(net)
    images = torch.randn(2, 3, 8, 8)
    conv, norm, head = net.stem[0], net.stem[1], net.head
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    x = F.conv2d(images, conv.weight, padding=1)
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
    torch.testing.assert_close(net(images), net.blocks(x).flatten(2).mean(2) @ head.weight.T + head.bias)


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    block = ResNet(depth=20).blocks[6]
    assert isinstance(block, ResBlock)
    conv = block.branch[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == (64, 32, 3, 3)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_stochastic_depth_grows_linearly_and_adds_no_state() -> None:
    net = ResNet(depth=20, stochastic_depth=0.5)
    layers = [m for m in net.modules() if isinstance(m, StochasticDepth)]
    assert [layer.p for layer in layers] == pytest.approx([0.5 * block / 9 for block in range(1, 10)])
    assert [block.drop for block in net.blocks] == layers
    ResNet(depth=20).load_state_dict(net.state_dict())


def test_stochastic_depth_drops_or_scales_each_samples_branch_and_never_the_shortcut() -> None:
    block = ResBlock(4, 4, 1, StochasticDepth(0.2, mode="row"), projection=True)
    x = torch.randn(200, 4, 4, 4)
    out, branch = block(x), block.branch(x)
    dropped = (out == x.clamp(min=0)).flatten(1).all(1)
    torch.testing.assert_close(out[~dropped], (x + branch / 0.8).clamp(min=0)[~dropped])
    assert 0.05 < dropped.float().mean() < 0.35  # five deviations
    block.eval()
    torch.testing.assert_close(block(x), (x + block.branch(x)).clamp(min=0))


@pytest.mark.parametrize("projection", [True, False])
def test_group_norm_and_standardised_convolutions_take_the_places_of_the_others(*, projection: bool) -> None:
    net = ResNet(depth=20, norm="group", projection=projection)
    batch = ResNet(depth=20, projection=projection)
    kinds = {nn.Conv2d: StandardisedConv2d, nn.BatchNorm2d: nn.GroupNorm}
    pairs = list(zip(net.modules(), batch.modules(), strict=True))
    assert all(type(m) is kinds.get(type(other), type(other)) for m, other in pairs[1:])
    parameters = {name: p.shape for name, p in net.named_parameters()}
    assert parameters == {name: p.shape for name, p in batch.named_parameters()}


def test_a_network_with_group_norm_does_not_mind_the_rest_of_the_batch() -> None:
    net = ResNet(7, 8, norm="group").train()
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(net(images)[:2], net(images[:2]))


def test_group_norm_makes_the_scale_of_a_filter_meaningless() -> None:
    net = ResNet(7, 8, norm="group").double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = net(images)
    with torch.no_grad():
        for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(net(images), expected, rtol=1e-3, atol=1e-3)  # but for epsilon


@pytest.mark.parametrize("options", [{}, {"projection": False}, {"norm": "group"}], ids=str)
def test_bf16_autocast_in_channels_last(
    check_bf16_autocast: Callable[[nn.Module, Tensor], None], options: dict[str, Any]
) -> None:
    net = ResNet(7, 8, **options, in_channels=1).eval()
    images = torch.randn(4, 1, 18, 24)
    check_bf16_autocast(net, images)


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depth_is_checked(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2 with n >= 1, got {depth}"):
        ResNet(depth=depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20, "widths": (8, 8, 8, 8)}, r"depth must be 8n \+ 2 with n >= 1, got 20"),
        ({"widths": ()}, r"widths must be positive and must not fall, got \[\]"),
        ({"widths": (0, 4, 4)}, r"widths must be positive and must not fall, got \[0, 4, 4\]"),
        ({"widths": [16, 8, 4]}, r"widths must be positive and must not fall, got \[16, 8, 4\]"),
        ({"norm": "layer"}, "norm must be one of batch, group, got 'layer'"),
        ({"stochastic_depth": -0.1}, r"drop probability must lie in \[0, 1\], got -0.1"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
