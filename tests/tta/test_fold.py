"""Folded networks against the networks they come from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tta.fold import fold_batch_norms
from zoo.archs import ARCHS, create


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def lively(net: nn.Module, *, least_scale: float = 0.5) -> nn.Module:
    """Give every BatchNorm statistics and parameters of its own, mild enough for deep networks."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, least_scale, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                assert values is not None
                with torch.no_grad():
                    values.uniform_(low, high, generator=generator)
    return net.eval()


def same(net: nn.Module, folded: nn.Module, images: Tensor) -> None:
    """In float64, where nothing but the formula can differ."""
    with torch.inference_mode():
        expected = net.double()(images.double())
        torch.testing.assert_close(folded.double()(images.double()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", [a for a in sorted(ARCHS) if not a.startswith(("pyramid", "wrn", "shake"))])
def test_the_function_is_the_same(arch: str) -> None:
    torch.manual_seed(0)
    net = lively(create(arch, 7)).double()
    folded = fold_batch_norms(net)
    assert norms(folded) == 0
    same(net, folded, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("arch", "left"), [("wrn16-2", 7 - 1), ("pyramid110-a48", 54 + 1), ("shakeshake26-2x32d", 3)])
def test_norms_without_a_neighbour_stay(arch: str, left: int) -> None:
    """Pre-activation: one a block, and the last; the first block's follows the stem."""
    torch.manual_seed(0)
    net = lively(create(arch, 7)).double()
    folded = fold_batch_norms(net)
    assert norms(folded) == left < norms(net)
    same(net, folded, torch.randn(2, 3, 32, 32))


def test_all_but_one_of_a_bottleneck_network_fold() -> None:
    net = lively(create("pyramid272", 7, depth=20, alpha=12, bottleneck=True)).double()
    folded = fold_batch_norms(net)
    assert norms(folded) == 1
    same(net, folded, torch.randn(2, 3, 32, 32))


class Reused(nn.Module):
    """A convolution whose output is read twice, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.norm(x) + x
        out: Tensor = self.other(self.again(self.again(x)))
        return out


class TwiceBefore(nn.Module):
    """A 1x1 convolution that reads a normalised input once, and something else another time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(x)) + self.conv(x)
        return out


class Peeking(nn.Module):
    """A convolution whose weight is also read by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x)) + functional.conv2d(x, self.conv.weight)
        return out


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(self.norm(self.conv(x)))
        return out


def padded(kernel: int, padding: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, kernel, padding=padding))


KEPT: dict[str, Callable[[], nn.Module]] = {
    "read or called twice": Reused,
    "called twice after it": TwiceBefore,
    "weight read elsewhere": Peeking,
    "weight of another": Tied,
    "3x3 after it": lambda: padded(3, 1),
    "padding after it": lambda: padded(1, 1),
    "groups after it": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2)),
    "no running statistics": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    "average pooling between": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_folded_stays(case: str) -> None:
    torch.manual_seed(0)
    net = KEPT[case]().eval()
    if case != "no running statistics":
        lively(net)
    folded = fold_batch_norms(net.double())
    assert norms(folded) == norms(net)
    same(net, folded, torch.randn(2, 4 if "groups" in case else 3, 8, 8))


@pytest.mark.parametrize("least_scale", [0.0, -1.5])
def test_a_maximum_commutes_with_scales_that_are_not_negative(least_scale: float) -> None:
    torch.manual_seed(0)
    net = lively(nn.Sequential(nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), nn.BatchNorm2d(16)), least_scale=least_scale)
    folded = fold_batch_norms(net.double())
    assert norms(folded) == (least_scale < 0)
    same(net, folded, torch.randn(2, 3, 8, 8))


def test_norms_without_parameters_fold_on_both_sides() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, affine=False),
    )  # fmt: skip
    net(torch.randn(64, 3, 8, 8) * 3 + 1)
    net.eval().double()
    folded = fold_batch_norms(net)
    assert norms(folded) == 0
    same(net, folded, torch.randn(2, 3, 8, 8))


class Branching(nn.Module):
    """Control flow that depends on the images: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x if x.mean() > 0 else -x)
        return out


class Counting(Branching):
    """It asks for the number of images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Counting, self).forward(x[i : i + 1]) for i in range(len(x))])


class Looking(Branching):
    """It looks a shape up."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = {3: self.net}[x.shape[1]](x)
        return out


@pytest.mark.parametrize("build", [Branching, Counting, Looking])
def test_a_network_that_cannot_be_traced_comes_back_as_a_copy(build: Callable[[], nn.Module]) -> None:
    net = build().eval()
    folded = fold_batch_norms(net)
    assert folded is not net
    assert norms(folded) == 1
    same(net, folded, torch.randn(2, 3, 8, 8))


class Keyword(nn.Module):
    """Its modules are called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.norm = nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(input=self.drop(input=self.conv(input=x)))
        return out


def test_calls_by_keyword_are_left_as_they_are() -> None:
    net = lively(Keyword())
    same(net, fold_batch_norms(net), torch.randn(2, 3, 8, 8))


def test_what_is_still_in_training_below_stays_random() -> None:
    """Dropout that is meant to be drawn anew in evaluation."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)).eval()
    net[1].train()
    folded = fold_batch_norms(net)
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(folded(images), folded(images))


def test_the_network_given_is_not_changed() -> None:
    net = lively(create("cnn6", 7))
    before = {name: values.clone() for name, values in net.state_dict().items()}
    fold_batch_norms(net)
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
