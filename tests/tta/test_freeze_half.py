"""Half precision of networks of all kinds: right answers, or fp32 and a word about it; never a crash."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from tta.freeze import FrozenNet, Setting
from tta.predict import Precision
from zoo.archs import ARCHS, create

CPU = torch.device("cpu")

TINY: dict[str, dict[str, Any]] = {
    "cnn6": {"widths": (8, 8)},
    "fastnet": {"widths": (8, 16, 16)},
    "fastnet96": {"widths": (8, 16, 16)},
    "pyramid110-a48": {"depth": 8, "alpha": 8, "shakedrop": 0.5},
    "pyramid272": {"depth": 11, "alpha": 8},
    "resnet20": {"depth": 8},
    "resnet20-a": {"depth": 8, "norm": "group"},
    "resnet9": {},
    "shakeshake26-2x32d": {"depth": 8, "width": 8},
    "wrn16-2": {"depth": 10, "width": 1},
}
"""Small networks of every family of the zoo."""


def images(count: int = 8, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def lively(net: nn.Module) -> nn.Module:
    """Give BatchNorms statistics of their own."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(32, 3, 16, 16))
    return net.eval()


def test_every_family_is_tried() -> None:
    assert {ARCHS[arch][0] for arch in TINY} == {build for build, _ in ARCHS.values()}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("arch", TINY)
def test_every_family_of_the_zoo(arch: str, precision: Precision, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = create(arch, 10, **TINY[arch]).eval()
    frozen = FrozenNet(net, Setting(CPU, precision))
    with torch.inference_mode():
        plain, half = net(images()), frozen(images())
    assert frozen.precision == precision
    assert half.dtype == torch.float32
    assert 0 < (half - plain).norm() / plain.norm() < 0.03
    top, second = plain.topk(2, dim=1).values.T
    clear = top - second > 2 * (half - plain).abs().amax(1)
    assert clear.sum() >= 2
    assert torch.equal(half.argmax(1)[clear], plain.argmax(1)[clear])
    assert not caplog.records


class TwoStems(nn.Module):
    """Two convolutions that read the images; the one that comes first in the graph is not the first one written."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.left(x), self.right(x)], 1).relu().mean((2, 3)))
        return out


class Functional(nn.Module):
    """A stem that is a parameter of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.next, self.head = nn.Conv2d(4, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.weight) * self.scale
        out: Tensor = self.head(self.next(x).relu().mean((2, 3)))
        return out


class Backwards(nn.Module):
    """It cannot be traced, and its layers run in the opposite order of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last, self.stem = nn.Linear(4, 5), nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stem(x)) if x.mean() < 9 else x
        out: Tensor = self.head(x.relu().mean((2, 3)))
        return out


class Tied(nn.Module):
    """Convolutions that share a weight, one of them the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.next, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 5)
        self.next.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.next(self.stem(x)).mean((2, 3)))
        return out


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))


def transposed() -> nn.Module:
    stem = nn.ConvTranspose2d(3, 4, 2)
    return nn.Sequential(stem, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.PReLU(), nn.Flatten(2), nn.LayerNorm(196), nn.Linear(196, 5),
        nn.Flatten(), nn.Linear(40, 5),
    )  # fmt: skip


ODD: dict[str, Callable[[], nn.Module]] = {
    "a perceptron": perceptron,
    "two stems": TwoStems,
    "a functional stem": Functional,
    "a transposed stem": transposed,
    "layers named backwards": Backwards,
    "tied layers": Tied,
    "other norms": normed,
    "nothing but a convolution": lambda: nn.Conv2d(3, 5, 16),
}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ODD)
def test_networks_of_any_shape(kind: str, precision: Precision, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = lively(ODD[kind]())
    frozen = FrozenNet(net, Setting(CPU, precision))
    with torch.inference_mode():
        plain, half = net(images(size=16)), frozen(images(size=16))
    assert frozen.precision == precision
    assert not caplog.records
    assert 0 < (half - plain).norm() / plain.norm() < 0.03


class Picky(nn.Module):
    """It works on fp32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if maps.dtype != torch.float32:
            raise RuntimeError("no kernel for this type\nand a long story")
        out: Tensor = maps.mean((2, 3))
        return out


class Peeking(nn.Module):
    """The weight of its first convolution is read by itself as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.conv(x) + functional.conv2d(x, self.conv.weight)).mean((2, 3))
        return out


class Loud(nn.Module):
    """Its activations are beyond what fp16 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.next = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.next(self.stem(x) * 1e6).mean((2, 3))
        return out


@pytest.mark.parametrize(
    ("build", "precision", "words"),
    [
        (Picky, "bf16", "bf16 failed (RuntimeError: no kernel for this type): running in fp32"),
        (Peeking, "bf16", "bf16 failed (AttributeError: '_Wide' object has no attribute 'weight'): running in fp32"),
        (Loud, "fp16", "fp16 failed (the answers are not finite): running in fp32"),
    ],
)
def test_what_half_precision_cannot_do_is_done_in_fp32(
    build: Callable[[], nn.Module], precision: Precision, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net = build().eval()
    frozen = FrozenNet(net, Setting(CPU, precision))
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        assert frozen(images(0)).shape == (0, 5)
        assert_close(frozen(images()), net(images()), rtol=1e-4, atol=1e-5)
        frozen(images())
    assert frozen.precision == "fp32"
    assert [r.getMessage() for r in caplog.records] == [words]


def test_bf16_does_for_what_is_too_loud_for_fp16() -> None:
    torch.manual_seed(0)
    frozen = FrozenNet(Loud().eval(), Setting(CPU, "bf16"))
    with torch.inference_mode():
        frozen(images())
    assert frozen.precision == "bf16"


def test_wrong_images_say_nothing_about_precision(caplog: pytest.LogCaptureFixture) -> None:
    frozen = FrozenNet(create("cnn6", 10, widths=(8, 8)).eval(), Setting(CPU, "bf16"))
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="channels"):
            frozen(torch.zeros(2, 5, 32, 32))
        assert frozen(torch.full((2, 3, 32, 32), float("nan"))).isnan().all()
        assert frozen(images()).isfinite().all()
    assert frozen.precision == "bf16"
    assert not caplog.records


def test_the_surroundings_have_no_say() -> None:
    """A precision is the setting's, also within a training step that runs in another."""
    torch.manual_seed(0)
    net = create("cnn6", 10, widths=(8, 8)).eval()
    for precision in ("fp32", "bf16"):
        frozen = FrozenNet(net, Setting(CPU, precision))
        with torch.inference_mode():
            alone = frozen(images())
            for enabled in (True, False):
                with torch.autocast("cpu", torch.float16, enabled=enabled):
                    assert torch.equal(frozen(images()), alone)
