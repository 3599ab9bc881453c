"""Shake-Shake against its formula, its draws, the published counts, and its block against a plain rendering."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.shakeshake import (
    VARIANTS,
    ShakeShake,
    ShakeShakeBlock,
    ShakeShakeNet,
    ShiftedShortcut,
    shake_shake,
)

# Millions of parameters: table 3 of the paper for 96 channels, the same network's sizes for the others.
MILLIONS = {"shakeshake26-2x32d": 2.9, "shakeshake26-2x64d": 11.7, "shakeshake26-2x96d": 26.2}


def closed_form(width: int, classes: int = 10) -> int:
    """Parameters by hand: the stem, two branches of four blocks in each of three groups, three shortcuts, the head."""
    total, width_in = 27 * 16 + 2 * 16, 16
    for width_out in (width, 2 * width, 4 * width):
        for block_in in (width_in, width_out, width_out, width_out):
            total += 2 * (9 * block_in * width_out + 9 * width_out**2 + 4 * width_out)
        total += width_in * width_out + 2 * width_out
        width_in = width_out
    return total + (width_in + 1) * classes


def mixed(layer: ShakeShake, images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward and backward shares of both branches in one training pass, for each image."""
    first = torch.tensor([1.0, 0.0]).expand(images, 2).clone().requires_grad_()
    second = torch.tensor([0.0, 1.0]).expand(images, 2).clone().requires_grad_()
    out = layer(first, second)
    grads = torch.autograd.grad(out.sum(), (first, second))
    return out[:, 0].detach(), out[:, 1].detach(), grads[0][:, 0], grads[1][:, 0]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("classes", [10, 100])
def test_parameters(name: str, classes: int, count_parameters: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        net = ShakeShakeNet(classes, **VARIANTS[name])
    assert count_parameters(net) == closed_form(VARIANTS[name]["width"], classes)
    if classes == 10:
        assert round(count_parameters(net) / 1e6, 1) == MILLIONS[name]


def test_every_variant_has_its_figures() -> None:
    assert set(VARIANTS) == set(MILLIONS)


def test_forward_and_backward_follow_the_formula() -> None:
    first, second = (torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    upstream = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    alpha, beta = (0.75, 0.0, 1.0), (0.25, 1.0, 0.125)
    out = shake_shake(first, second, torch.tensor(alpha).reshape(3, 1, 1, 1), torch.tensor(beta).reshape(3, 1, 1, 1))
    grads = torch.autograd.grad(out, (first, second), upstream)
    for image, (a, b) in enumerate(zip(alpha, beta, strict=True)):
        torch.testing.assert_close(out[image], a * first[image] + (1 - a) * second[image])
        torch.testing.assert_close(grads[0][image], b * upstream[image])
        torch.testing.assert_close(grads[1][image], (1 - b) * upstream[image])


def test_shares_are_uniform_for_each_image_and_independent_in_both_directions() -> None:
    images = 20_000
    ahead, ahead_other, back, back_other = mixed(ShakeShake(), images)
    torch.testing.assert_close(ahead + ahead_other, torch.ones(images))
    torch.testing.assert_close(back + back_other, torch.ones(images))
    for share in (ahead, back):
        assert share.mean().item() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / images))
        assert share.var().item() == pytest.approx(1 / 12, rel=0.05)
        assert share.min() < 0.01
        assert share.max() > 0.99
    assert abs(torch.corrcoef(torch.stack([ahead, back]))[0, 1].item()) < 4 / math.sqrt(images)


def test_evaluation_takes_halves() -> None:
    for share in mixed(ShakeShake().eval(), 3):
        assert torch.equal(share, torch.full((3,), 0.5))


def test_precision_and_layout_are_kept() -> None:
    first, second = (torch.randn(4, 8, 2, 2).bfloat16().to(memory_format=torch.channels_last) for _ in range(2))
    for layer in (ShakeShake(), ShakeShake().eval()):
        out = layer(first, second)
        assert out.dtype == torch.bfloat16
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_compiles_into_one_graph_with_the_same_draws() -> None:
    branches = [torch.randn(16, 2, 2, 2, requires_grad=True) for _ in range(2)]
    results = []
    for run in (ShakeShake(), torch.compile(ShakeShake(), fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        out = run(*branches)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), branches)))
    torch.testing.assert_close(results[0], results[1])


def test_the_shifted_path_sees_the_pixels_that_the_other_skips() -> None:
    """On a 4x4 image the first takes rows and columns 0 and 2; one pixel further, the second takes none, and 1."""
    shortcut = ShiftedShortcut(1, 2, 2).eval()
    for conv in (shortcut.conv, shortcut.conv_shifted):
        nn.init.ones_(conv.weight)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = shortcut(x) * math.sqrt(1 + 1e-5)
    torch.testing.assert_close(out[0], torch.tensor([[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0], [0.0, 5.0]]]))


def reference_block(block: ShakeShakeBlock, x: Tensor, stride: int) -> Tensor:
    """ReLU, conv, BN, ReLU, conv, BN, twice, half of each; plus the input, or two 1x1 convolutions of its ReLU."""

    def norm(y: Tensor, layer: nn.Module) -> Tensor:
        assert isinstance(layer, nn.BatchNorm2d)
        return F.batch_norm(y, layer.running_mean, layer.running_var, layer.weight, layer.bias)

    def kernel(layer: nn.Module) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        return layer.weight

    active = x.clamp(min=0)
    out = torch.zeros(())
    for branch in (block.first, block.second):
        y = norm(F.conv2d(active, kernel(branch[0]), stride=stride, padding=1), branch[1]).clamp(min=0)
        out = out + norm(F.conv2d(y, kernel(branch[3]), padding=1), branch[4]) / 2
    if block.shortcut is None:
        return out + x
    moved = torch.zeros_like(active)
    moved[:, :, 1:, 1:] = active[:, :, :-1, :-1]
    paths = [
        torch.einsum("oc,nchw->nohw", kernel(conv)[:, :, 0, 0], y[:, :, ::stride, ::stride])
        for conv, y in ((block.shortcut.conv, active), (block.shortcut.conv_shifted, moved))
    ]
    return out + norm(torch.cat(paths, dim=1), block.shortcut.norm)


@pytest.mark.parametrize(("width_in", "width_out", "stride"), [(6, 6, 1), (5, 8, 1), (6, 6, 2), (5, 8, 2)])
@pytest.mark.parametrize("size", [8, 7])
def test_block_equals_its_plain_rendering(
    width_in: int, width_out: int, stride: int, size: int, randomise_norms: Callable[[nn.Module], None]
) -> None:
    block = ShakeShakeBlock(width_in, width_out, stride).double().eval()
    randomise_norms(block)
    assert (block.shortcut is None) == ((width_in, stride) == (width_out, 1))
    x = torch.randn(2, width_in, size, size, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference_block(block, x, stride))


def test_groups_have_the_papers_widths_and_sizes() -> None:
    net = ShakeShakeNet(depth=14, width=4)
    x, shapes = net.stem(torch.randn(2, 3, 32, 32)), []
    assert x.shape == (2, 16, 32, 32)
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2


def test_network_starts_with_conv_and_norm_and_ends_in_relu_mean_and_head() -> None:
    net = ShakeShakeNet(depth=8, width=4).eval()
    assert [type(m) for m in net.stem] == [nn.Conv2d, nn.BatchNorm2d]
    images = torch.randn(2, 3, 8, 8)
    features = net.blocks(net.stem(images)).clamp(min=0)
    torch.testing.assert_close(net(images), features.flatten(2).mean(2) @ net.head.weight.T + net.head.bias)
    assert not net.head.bias.any()


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    block = ShakeShakeNet(depth=8, width=32).blocks[2]
    assert isinstance(block, ShakeShakeBlock)
    conv = block.second[3]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)


def test_bf16_autocast_in_channels_last(check_bf16_autocast: Callable[[nn.Module, Tensor], None]) -> None:
    check_bf16_autocast(ShakeShakeNet(7, 8, 8, in_channels=1).eval(), torch.randn(4, 1, 16, 24))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 27}, r"depth must be 6n \+ 2 with n >= 1, got 27"),
        ({"depth": 2}, r"depth must be 6n \+ 2 with n >= 1, got 2"),
        ({"width": 5}, "width must be even and at least 2, got 5"),
        ({"width": 0}, "width must be even and at least 2, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShakeShakeNet(**arguments)
