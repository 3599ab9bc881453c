"""From a file's state dict to a network of this zoo."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from zoo.errors import DataError
from zoo.importing.comparison import compare, fits_but_for_the_head
from zoo.importing.layers import layers_of
from zoo.importing.matching import Match, Outline, match, ordered_layers
from zoo.importing.nested import find_state, strip_prefixes
from zoo.importing.reading import read_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.importing.comparison import Row
    from zoo.importing.layers import Layer, Shape

__all__ = [
    "REFUSED",
    "Checkpoint",
    "ZeroChannels",
    "fitting_architectures",
    "open_checkpoint",
    "outline",
    "pair",
    "side_by_side",
    "stored_type",
    "weights_of",
]

ZeroChannels = Literal["end", "both"]
"""Where shortcuts without parameters put the channels of zeros: all at the end, as here, or half on each side."""

REFUSED: Mapping[str, str] = {
    "ShakeShakeNet": (
        "PyTorch ports of Shake-Shake shift the shortcut's image the other way than its source and this zoo do, "
        "which no tensor shows"
    )
}
"""Class of a network -> why only weights under its own names are taken."""


def outline(net: "nn.Module") -> Outline:
    """Return what `matching` needs of a network, which may be on the meta device.

    A block is whatever has parts of its own in a sequence right in the network.
    """
    from torch import nn  # noqa: PLC0415

    blocks = [
        f"{name}.{number}."
        for name, sequence in net.named_children()
        if isinstance(sequence, nn.Sequential)
        for number, block in sequence.named_children()
        if any(True for _ in block.children())
    ]
    return Outline({name: tuple(value.shape) for name, value in net.state_dict().items()}, blocks)


class Checkpoint(NamedTuple):
    """Someone's state dict.

    Attributes:
        path: the file, for errors.
        state: name -> tensor on the CPU, as stored; without prefixes that all names share.
        ordered: whether the names come in the order in which their network defined them.
    """

    path: Path
    state: "Mapping[str, torch.Tensor]"
    ordered: bool

    @property
    def shapes(self) -> "dict[str, Shape]":
        """Name -> shape."""
        return {name: tuple(value.shape) for name, value in self.state.items()}


def open_checkpoint(path: Path, keys: Sequence[str] = (), *, from_dataparallel: bool = False) -> Checkpoint:
    """Read the state dict in a file; for arguments and errors see `reading`, `find_state` and `strip_prefixes`."""
    content = read_checkpoint(path)
    state = find_state(content.tree, str(path), keys, path.stat().st_size)
    return Checkpoint(path, strip_prefixes(state, str(path), from_dataparallel=from_dataparallel), content.ordered)


def pair(net: "nn.Module", checkpoint: Checkpoint) -> Match:
    """Pair a file's tensors with a network's; see `zoo.importing.matching.match`.

    Args:
        net: may be on the meta device.
        checkpoint: the file's tensors.

    Raises:
        MismatchError: they do not fit; `side_by_side` shows what does.
        DataError: they fit by shape only, and this kind of network is known to be built differently elsewhere.
    """
    found = match(outline(net), checkpoint.shapes, ordered=checkpoint.ordered)
    reason = REFUSED.get(type(net).__name__)
    if found.how != "name" and reason:
        raise DataError(f"{checkpoint.path} fits by shape, but {reason}")
    return found


def side_by_side(net: "nn.Module", checkpoint: Checkpoint) -> "list[Row]":
    """Return a network's layers beside a file's, in the order of each."""
    return compare(layers_of(outline(net).shapes), ordered_layers(checkpoint.shapes, ordered=checkpoint.ordered))


def fitting_architectures(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the architectures that have a file's layers, whatever the number of classes; sorted."""
    theirs = layers_of(checkpoint.shapes)
    return [name for name, layers in _known().items() if fits_but_for_the_head(layers, theirs)]


@cache
def _known() -> "dict[str, list[Layer]]":
    """Return the layers of every architecture, which takes a second to find out."""
    from zoo.archs import ARCHS, create  # noqa: PLC0415
    from zoo.archs.unfilled import unfilled  # noqa: PLC0415

    with unfilled():
        return {name: layers_of(outline(create(name, 10)).shapes) for name in sorted(ARCHS)}


def stored_type(checkpoint: Checkpoint) -> "torch.dtype":
    """Return the type to file weights in: fp16 or bf16 if all floating-point ones are that, else fp32."""
    import torch  # noqa: PLC0415

    kinds = {value.dtype for value in checkpoint.state.values() if value.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16} else torch.float32


def weights_of(net: "nn.Module", checkpoint: Checkpoint, pairs: Mapping[str, str]) -> "dict[str, torch.Tensor]":
    """Return a network's state dict with a file's numbers, in fp32; counters that the file lacks are zero.

    Args:
        net: whose names to use; may be on the meta device.
        checkpoint: the file's tensors, which are copied.
        pairs: the network's tensor names -> the file's.

    Raises:
        DataError: a tensor has integers where the network computes, a number that is not finite, or a variance below 0.
    """
    import torch  # noqa: PLC0415

    weights: dict[str, torch.Tensor] = {}
    for name, own in net.state_dict().items():
        if name not in pairs:
            weights[name] = torch.zeros(own.shape, dtype=own.dtype)
            continue
        key = pairs[name]
        value = checkpoint.state[key].detach()
        if own.is_floating_point() != value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise DataError(f"{checkpoint.path}: {key!r} has numbers of type {kind}, which do not fit {name!r}")
        value = value.to(own.dtype, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            raise DataError(f"{checkpoint.path}: {key!r} has numbers that are not finite in fp32")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise DataError(f"{checkpoint.path}: {key!r} has variances below zero")
        weights[name] = value
    return weights
