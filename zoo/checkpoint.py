"""Weights as safetensors bytes with a canonical header, and back into a network."""

from typing import TYPE_CHECKING

from zoo.errors import CorruptError
from zoo.header import check_format

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from zoo.card import Card

__all__ = ["as_float32", "build", "cast", "check_format", "decode", "encode", "save_tensors"]


def encode(net: "nn.Module", dtype: "torch.dtype | None" = None) -> bytes:
    """Serialise a network's parameters and buffers: equal weights give equal bytes.

    Args:
        net: any module; floating-point tensors are stored as `dtype`, others as they are.
        dtype: float16 by default.
    """
    import torch  # noqa: PLC0415  # keeps `zoo list` free of torch

    return save_tensors(cast(net.state_dict(), dtype or torch.float16))


def cast(tensors: "Mapping[str, torch.Tensor]", dtype: "torch.dtype | None") -> "dict[str, torch.Tensor]":
    """Return tensors as they are to be stored: on the CPU, contiguous, and floating-point ones as `dtype`.

    Args:
        tensors: by name.
        dtype: of floating-point tensors; None keeps theirs. Others stay as they are.
    """
    return {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }


def save_tensors(tensors: "Mapping[str, torch.Tensor]") -> bytes:
    """Serialise contiguous tensors on the CPU: equal tensors give equal bytes."""
    from safetensors.torch import save  # noqa: PLC0415  # imports torch

    return save(dict(tensors), metadata={"format": "pt"})


def decode(content: bytes, where: str) -> "dict[str, torch.Tensor]":
    """Read safetensors bytes; floating-point tensors come back as float32.

    Raises:
        CorruptError: these are not safetensors bytes; `where` names the file.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415  # imports torch

    check_format(content, where)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{where} is not a readable safetensors file: {error}") from error
    return as_float32(tensors)


def as_float32(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Return floating-point tensors as float32, which are the given ones where they are so already.

    Others are copied: a step counter of eight bytes should not keep a file mapped whose weights were all converted.
    """
    return {name: value.float() if value.is_floating_point() else value.clone() for name, value in tensors.items()}


def build(card: "Card", weights: "dict[str, torch.Tensor]", where: str) -> "nn.Module":
    """Make the network that a card describes and give it `weights`; it is returned in eval mode, in fp32.

    Raises:
        UsageError: this version does not know the architecture.
        CorruptError: the weights are not this architecture's.
    """
    from zoo.archs import create  # noqa: PLC0415
    from zoo.archs.unfilled import unfilled  # noqa: PLC0415

    with unfilled():  # the initial weights would be thrown away
        net = create(card.architecture, len(card.classes), **card.architecture_args)
    expected = {name: (value.shape, value.is_floating_point()) for name, value in net.state_dict().items()}
    given = {name: (value.shape, value.is_floating_point()) for name, value in weights.items()}
    if expected != given:
        wrong = sorted(k for k in expected.keys() | given.keys() if expected.get(k) != given.get(k))
        raise CorruptError(
            f"{where} does not hold a {card.architecture}: {len(wrong)} tensors differ, the first is {wrong[0]!r}"
        )
    net.load_state_dict(weights, assign=True)
    return net.eval()
