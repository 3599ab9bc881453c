"""The plain six-layer CNN against counts by hand and a plain rendering."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.cnn6 import VARIANTS, PlainCNN

WIDTHS = (32, 64, 64, 128, 128, 256)


def test_the_one_variant() -> None:
    assert dict(VARIANTS) == {"cnn6": {"widths": WIDTHS}}


@pytest.mark.parametrize(("widths", "classes"), [(WIDTHS, 10), (WIDTHS, 100), ((4, 6), 3)])
def test_parameters_by_hand(widths: Sequence[int], classes: int, count_parameters: Callable[[nn.Module], int]) -> None:
    ins = [3, *widths[:-1]]
    wanted = sum(9 * a * b + 2 * b for a, b in zip(ins, widths, strict=True)) + (widths[-1] + 1) * classes
    assert count_parameters(PlainCNN(classes, widths)) == wanted


def test_it_is_small(count_parameters: Callable[[nn.Module], int], multiply_adds: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        net = PlainCNN(**VARIANTS["cnn6"]).eval()
    assert round(count_parameters(net) / 1e6, 2) == 0.58
    # By hand: side, inputs and outputs of each convolution; two for each element that is normalised.
    layers = [(32, 3, 32), (16, 32, 64), (16, 64, 64), (8, 64, 128), (8, 128, 128), (4, 128, 256)]
    wanted = sum(side**2 * (9 * a * b + 2 * b) for side, a, b in layers) + 256 * 10
    assert multiply_adds(net) == wanted
    assert round(wanted / 1e6) == 34


@pytest.mark.parametrize("size", [32, 17])
def test_forward_against_a_plain_rendering(size: int, randomise_norms: Callable[[nn.Module], None]) -> None:
    net = PlainCNN(5, (4, 6, 8)).eval()
    randomise_norms(net)
    images = torch.randn(2, 3, size, size)
    x = images
    for layer, stride in zip(net.blocks, (1, 2, 1), strict=True):
        assert isinstance(layer, nn.Sequential)
        conv, norm, _ = layer
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        x = F.conv2d(x, conv.weight, stride=stride, padding=1)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).clamp(min=0)
    torch.testing.assert_close(net(images), x.flatten(2).mean(2) @ net.head.weight.T + net.head.bias)


def test_initial_weights_are_he_normal_by_fan_out() -> None:
    conv = PlainCNN(10, WIDTHS).blocks.get_submodule("5.0")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_bf16_autocast_in_channels_last(check_bf16_autocast: Callable[[nn.Module, Tensor], None]) -> None:
    check_bf16_autocast(PlainCNN(7, (8, 8, 16, 16), in_channels=1).eval(), torch.randn(4, 1, 16, 24))


def test_no_widths() -> None:
    with pytest.raises(ValueError, match="widths must not be empty"):
        PlainCNN(widths=())
