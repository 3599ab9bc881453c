"""Weights as safetensors bytes with a canonical header, and back into a network."""

from typing import TYPE_CHECKING

from zoo.errors import CorruptError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.card import Card

__all__ = ["build", "check_format", "decode", "encode"]

_PICKLES = (b"\x80", b"PK\x03\x04")  # a bare pickle; a zip, which torch.save writes
_LONGEST_HEADER = 100_000_000


def check_format(content: bytes, where: str) -> None:
    """Raise `CorruptError` unless `content` starts as a safetensors file does; `where` names the file."""
    if content.startswith(_PICKLES) and content[8:9] != b"{":
        raise CorruptError(f"{where} is a pickle, not a safetensors file; pickles are never loaded, they can run code")
    header = int.from_bytes(content[:8], "little")
    if len(content) < 10 or content[8:9] != b"{" or not 2 <= header <= min(len(content) - 8, _LONGEST_HEADER):  # noqa: PLR2004
        raise CorruptError(f"{where} is not a safetensors file, or it is truncated")


def encode(net: "nn.Module", dtype: "torch.dtype | None" = None) -> bytes:
    """Serialise a network's parameters and buffers: equal weights give equal bytes.

    Args:
        net: any module; floating-point tensors are stored as `dtype`, others as they are.
        dtype: float16 by default.
    """
    import torch  # noqa: PLC0415  # keeps `zoo list` free of torch
    from safetensors.torch import save  # noqa: PLC0415

    kind = dtype or torch.float16
    tensors = {
        name: (value.to(kind) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in net.state_dict().items()
    }
    return save(tensors, metadata={"format": "pt"})


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
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def build(card: "Card", weights: "dict[str, torch.Tensor]", where: str) -> "nn.Module":
    """Make the network that a card describes and give it `weights`; it is returned in eval mode, in fp32.

    Raises:
        UsageError: this version does not know the architecture.
        CorruptError: the weights are not this architecture's.
    """
    import torch  # noqa: PLC0415

    from zoo.archs import create  # noqa: PLC0415

    with torch.device("meta"):  # the initial weights would be thrown away
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
