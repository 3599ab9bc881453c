"""The registry is the test matrix: every architecture there is, on the meta device."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from zoo import archs
from zoo.archs import ARCHS, cnn6, create, fastnet, pyramidnet, register, resnet, resnet9, shakeshake, wideresnet
from zoo.errors import UsageError
from zoo.names import is_name

FAMILIES: list[Mapping[str, Mapping[str, Any]]] = [
    cnn6.VARIANTS,
    fastnet.VARIANTS,
    pyramidnet.VARIANTS,
    resnet.VARIANTS,
    resnet9.VARIANTS,
    shakeshake.VARIANTS,
    wideresnet.VARIANTS,
]


@pytest.mark.parametrize("name", sorted(ARCHS))
@pytest.mark.parametrize("classes", [7, 100])
def test_every_architecture_gives_logits(name: str, classes: int) -> None:
    with torch.device("meta"):
        net = create(name, classes).eval()
        logits = net(torch.empty(2, 3, 32, 32))
    assert logits.shape == (2, classes)
    assert logits.dtype == torch.float32
    assert is_name(name), "entries are named after architectures"


def test_every_variant_of_every_family_is_registered() -> None:
    assert sorted(ARCHS) == sorted(name for family in FAMILIES for name in family)
    assert {"fastnet", "pyramid272", "pyramid110-a48", "wrn28-10", "resnet20", "resnet20-a"} <= ARCHS.keys()
    assert {"cnn6", "resnet9", "resnet18", "shakeshake26-2x32d", "shakeshake26-2x96d"} <= ARCHS.keys()


def test_arguments_override_the_variants() -> None:
    with torch.device("meta"):
        net = create("fastnet", 10, widths=(8, 16, 24))
    convolutions = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [24, 8, 8, 16, 16, 24, 24]


def test_a_miss_suggests() -> None:
    with pytest.raises(
        UsageError, match=r"unknown architecture 'fastnett'.*'fastnet'.*; there are cnn6, fastnet, fast"
    ):
        create("fastnett", 10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 3},
        {"widths": 3},
        {"widths": (-1, 2, 3)},
        {"widths": ()},
        {"arch": "resnet20"},
        {"classes": 3},
        {"self": 3},
    ],
    ids=str,
)
def test_arguments_it_does_not_take(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="architecture 'fastnet': ") as caught, torch.device("meta"):
        create("fastnet", 10, **arguments)
    assert "\n" not in str(caught.value)


def test_a_duplicate_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archs, "ARCHS", dict(ARCHS))
    with pytest.raises(ValueError, match="architecture 'fastnet' is registered twice"):
        register({"fastnet": {}}, nn.Identity)
    register({"fastnet2": {"widths": (8, 8, 8)}}, fastnet.FastNet)
    with torch.device("meta"):
        assert isinstance(create("fastnet2", 10), fastnet.FastNet)


@pytest.mark.parametrize("arguments", [{"depth": 60_002}, {"widths": (8, 8, 10**9)}, {"dropout": float("inf")}])
def test_absurd_sizes_are_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="beyond 4096"):
        create("wrn28-10", 10, **arguments)
