"""Architectures: one registry over the variants of every family."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zoo.archs import cnn6, fastnet, pyramidnet, resnet, resnet9, shakeshake, wideresnet
from zoo.errors import UsageError
from zoo.names import suggestion

__all__ = ["ARCHS", "create", "register"]

ARCHS: dict[str, tuple[Callable[..., nn.Module], Mapping[str, Any]]] = {}
"""Architecture name -> (class, arguments of this variant)."""


def register(variants: Mapping[str, Mapping[str, Any]], build: Callable[..., nn.Module]) -> None:
    """Add a family's table of variants to the registry.

    Raises:
        ValueError: a variant's name is taken.
    """
    for name, arguments in variants.items():
        if name in ARCHS:
            raise ValueError(f"architecture {name!r} is registered twice")
        ARCHS[name] = (build, arguments)


def create(arch: str, classes: int, /, **arguments: Any) -> nn.Module:  # noqa: ANN401  # each family has its own
    """Build a freshly initialised network.

    Args:
        arch: a key of `ARCHS`.
        classes: number of classes C.
        arguments: override the variant's arguments.

    Returns:
        A module that maps normalised images `[N, 3, H, W]` to logits `[N, C]`.

    Raises:
        UsageError: no such architecture, or arguments it does not take.
    """
    if arch not in ARCHS:
        raise UsageError(
            f"unknown architecture {arch!r}{suggestion(arch, ARCHS)}; there are {', '.join(sorted(ARCHS))}"
        )
    build, defaults = ARCHS[arch]
    for key, value in arguments.items():
        _check_size(arch, key, value)
    try:
        return build(classes=classes, **{**defaults, **arguments})
    except (TypeError, ValueError, RuntimeError) as error:  # torch's own, at sizes below zero or beyond 64 bits
        raise UsageError(f"architecture {arch!r}: {str(error).splitlines()[0]}") from error


_LARGEST = 4096


def _check_size(arch: str, key: str, value: object) -> None:
    """Raise `UsageError` if an argument is absurdly large: a card may come from anybody, and building takes time."""
    if isinstance(value, list | tuple):
        for one in value:
            _check_size(arch, key, one)
    elif isinstance(value, int | float) and abs(value) > _LARGEST:
        raise UsageError(f"architecture {arch!r}: {key} is {value}, beyond {_LARGEST}")


register(cnn6.VARIANTS, cnn6.PlainCNN)
register(fastnet.VARIANTS, fastnet.FastNet)
register(pyramidnet.VARIANTS, pyramidnet.PyramidNet)
register(resnet.VARIANTS, resnet.ResNet)
register(resnet9.VARIANTS, resnet9.ResNet9)
register(shakeshake.VARIANTS, shakeshake.ShakeShakeNet)
register(wideresnet.VARIANTS, wideresnet.WideResNet)
