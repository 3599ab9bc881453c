"""ResNet-9 against counts by hand, the published multiply-adds, and a plain rendering."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.whitening import whiten_first_layer, whitening_filters
from zoo.archs.resnet9 import VARIANTS, ConvUnit, ResidualPair, ResNet9

WIDTHS = (64, 128, 256, 512)
TINY = (4, 5, 6, 7)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"activation": "celu"},
    {"pool_first": True},
    {"whitening": True},
    dict(VARIANTS["resnet9"]),
]


def on_meta(**arguments: Any) -> ResNet9:  # noqa: ANN401
    with torch.device("meta"):
        return ResNet9(**arguments).eval()


def test_the_variant_is_the_bag_of_tricks() -> None:
    assert dict(VARIANTS) == {
        "resnet9": {"activation": "celu", "pool_first": True, "whitening": True, "scale": 0.0625},
    }


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters_by_hand(classes: int, count_parameters: Callable[[nn.Module], int]) -> None:
    pairs = [(64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    rest = sum(9 * a * b + 2 * b for a, b in pairs) + 512 * classes + 2 * 64
    assert count_parameters(on_meta(classes=classes)) == rest + 27 * 64
    assert count_parameters(on_meta(classes=classes, whitening=True)) == rest + 54 * 27 + 54 * 64


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multiply_adds(options: dict[str, Any], multiply_adds: Callable[[nn.Module], int]) -> None:
    assert round(multiply_adds(on_meta(**options)) / 1e9, 2) == 0.38


def test_pooling_first_normalises_a_quarter_of_the_elements(multiply_adds: Callable[[nn.Module], int]) -> None:
    elements = 128 * 32**2 + 256 * 16**2 + 512 * 8**2
    saved = multiply_adds(on_meta()) - multiply_adds(on_meta(pool_first=True))
    assert saved == 2 * elements * 3 // 4


def plain(net: ResNet9, images: Tensor, *, celu: bool, pool_first: bool) -> Tensor:
    """The network as the source writes it down: prep, three layers, residuals after the first and the third."""

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.3 * torch.expm1(x / 0.3)) if celu else x.clamp(min=0)

    def unit(layer: object, x: Tensor, *, pool: bool) -> Tensor:
        assert isinstance(layer, ConvUnit)
        norm = layer.norm
        x = F.conv2d(x, layer.conv.weight, padding=layer.conv.weight.shape[-1] // 2)
        x = F.max_pool2d(x, 2) if pool and pool_first else x
        x = act(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
        return F.max_pool2d(x, 2) if pool and not pool_first else x

    def residual(layer: object, x: Tensor) -> Tensor:
        assert isinstance(layer, ResidualPair)
        return x + unit(layer.branch[1], unit(layer.branch[0], x, pool=False), pool=False)

    x = images if net.whiten is None else F.conv2d(images, net.whiten.weight, padding=1)
    x = unit(net.stem, x, pool=False)
    layer1, residual1, layer2, layer3, residual3 = net.blocks
    x = residual(residual1, unit(layer1, x, pool=True))
    x = unit(layer3, unit(layer2, x, pool=True), pool=True)
    x = F.max_pool2d(residual(residual3, x), 4).flatten(1)
    return x @ net.head.weight.T


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forward_against_a_plain_rendering(
    options: dict[str, Any], randomise_norms: Callable[[nn.Module], None]
) -> None:
    net = ResNet9(5, TINY, **options).double().eval()
    randomise_norms(net)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    celu, pool_first = options.get("activation") == "celu", options.get("pool_first", False)
    expected = plain(net, images, celu=celu, pool_first=pool_first) * options.get("scale", 1 / 8)
    torch.testing.assert_close(net(images), expected)


def test_names_do_not_depend_on_the_order_of_pooling() -> None:
    assert ResNet9(5, TINY).state_dict().keys() == ResNet9(5, TINY, pool_first=True).state_dict().keys()


def test_whitening_filters_fit_the_first_layer() -> None:
    net = ResNet9(5, TINY, whitening=True)
    assert net.whiten is not None
    assert not net.whiten.weight.requires_grad
    images = torch.randn(8, 3, 8, 8)
    whiten_first_layer(net.whiten, images, 1e-2)
    assert torch.equal(net.whiten.weight[:27], whitening_filters(images, 3, 1e-2))
    assert ResNet9(5, TINY).whiten is None


def test_everything_else_learns() -> None:
    net = ResNet9(5, TINY, **VARIANTS["resnet9"])
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None} == {"whiten.weight"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bf16_autocast_in_channels_last(
    options: dict[str, Any], check_bf16_autocast: Callable[[nn.Module, Tensor], None]
) -> None:
    check_bf16_autocast(ResNet9(7, (8, 8, 8, 8), **options, in_channels=1).eval(), torch.randn(4, 1, 16, 24))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8, 8, 8)}, r"widths must be four, got \[8, 8, 8\]"),
        ({"activation": "gelu"}, "activation must be one of relu, celu, got 'gelu'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet9(**arguments)
