"""Pair the tensors of someone's state dict with a network's: by their names, or by where they are and their shapes.

Shapes alone would pair wrongly, since a BatchNorm has four vectors of one shape, and neighbouring layers look alike.
Tensors go by layer and role (see `layers`), and layers by the network's structure: the other side's blocks are found
by what is in them, and a block's convolutions, and its norms, must come in the network's order. Where that leaves a
choice, nothing is paired.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, zip_longest
from typing import Literal, NamedTuple

from zoo.errors import DataError
from zoo.importing.layers import COUNTER, Layer, Shape, by_name, layers_of

__all__ = ["Match", "MismatchError", "Outline", "match", "ordered_layers"]

_MOST_BRANCHES = 4
Pairs = list[tuple[Layer, Layer]]


class Outline(NamedTuple):
    """What there is to know of a network in order to give it weights.

    Attributes:
        shapes: name of a parameter or buffer -> its shape, in the order of definition.
        blocks: beginnings of names, one a block, e.g. `blocks.0.`; in the order of the network.
    """

    shapes: Mapping[str, Shape]
    blocks: Sequence[str]


class Match(NamedTuple):
    """A network's tensor names -> the file's; counters that the file lacks are left out. And how they were paired."""

    pairs: Mapping[str, str]
    how: Literal["name", "order and shape"]


class MismatchError(DataError):
    """The tensors are not this network's, or more than one pairing fits. The message says which, without the table."""


def ordered_layers(shapes: Mapping[str, Shape], *, ordered: bool) -> list[Layer]:
    """Return a file's layers in the order in which their network defined them, as far as can be told.

    Args:
        shapes: of the file's tensors.
        ordered: whether they come in that order. If not, or if somebody sorted them, names decide.
    """
    if ordered and list(shapes) != sorted(shapes):
        return layers_of(shapes)
    layers = {layer.name: layer for layer in layers_of(shapes)}
    return [layers[name] for name in by_name(layers)]


def match(network: Outline, theirs: Mapping[str, Shape], *, ordered: bool) -> Match:
    """Pair every tensor of a network with one of a file, and every one of the file with one of the network.

    Args:
        network: what needs weights.
        theirs: name of a tensor in the file -> its shape, without prefixes that all have.
        ordered: whether the file's names come in the order in which its network defined them.

    Raises:
        MismatchError: they do not fit, or fit in more than one way.
    """
    mine, yours = layers_of(network.shapes), ordered_layers(theirs, ordered=ordered)
    named = {layer.name: layer for layer in yours}
    if len(mine) == len(yours) and all(m.name in named and named[m.name].look == m.look for m in mine):
        return Match(_keys([(layer, named[layer.name]) for layer in mine]), "name")
    surplus = Counter(layer.look for layer in yours) - Counter(layer.look for layer in mine)
    missing = Counter(layer.look for layer in mine) - Counter(layer.look for layer in yours)
    if surplus or missing:
        raise MismatchError(
            f"{sum(missing.values())} of the network's {len(mine)} layers are not in the file, and "
            f"{sum(surplus.values())} of the file's {len(yours)} are not the network's"
        )
    my_blocks = [[layer for layer in mine if layer.name.startswith(block)] for block in network.blocks]
    their_blocks = _find_blocks(my_blocks, yours, ordered=ordered)
    inside = {layer.name for block in my_blocks for layer in block}
    their_inside = {layer.name for block in their_blocks.values() for layer in block}
    pairs = _pair_rest(
        [layer for layer in mine if layer.name not in inside],
        [layer for layer in yours if layer.name not in their_inside],
    )
    pairs += _pair_blocks(my_blocks, their_blocks, ordered=ordered)
    return Match(_keys(pairs), "order and shape")


def _keys(pairs: Pairs) -> dict[str, str]:
    return {
        key: theirs.keys[role]
        for mine, theirs in pairs
        for role, key in mine.keys.items()
        if role != COUNTER or role in theirs.keys
    }


def _content(layers: Sequence[Layer]) -> Counter[object]:
    return Counter(layer.look for layer in layers)


def _find_blocks(
    mine: Sequence[Sequence[Layer]], yours: Sequence[Layer], *, ordered: bool
) -> dict[tuple[str, ...], list[Layer]]:
    """Return the file's blocks: prefix -> layers, in the order of the network.

    They are the parts of one depth of the names' tree that hold, one after the other, what the network's blocks do.
    """
    if not mine:
        return {}
    wanted = [_content(block) for block in mine]
    deepest = max(len(layer.name.split(".")) for layer in yours)
    for depth in range(1, deepest):
        parts: dict[tuple[str, ...], list[Layer]] = {}
        for layer in yours:
            parts.setdefault(tuple(layer.name.split(".")[:depth]), []).append(layer)
        found = {prefix: layers for prefix, layers in parts.items() if _content(layers) in wanted}
        if [_content(layers) for layers in found.values()] != wanted:
            continue
        counted = by_name(".".join(prefix) for prefix in found)
        if ordered and counted != [".".join(prefix) for prefix in found]:
            again = [_content(found[tuple(name.split("."))]) for name in counted]
            if again == wanted:
                raise MismatchError("its blocks come in another order than their names count, and both orders fit")
        return found
    raise MismatchError("the layers fit in number and shape, but not block by block: this is another kind of network")


def _pair_rest(mine: Sequence[Layer], yours: Sequence[Layer]) -> Pairs:
    """Pair what is outside of blocks: stem and head, of which there are no two of one shape."""
    pairs: Pairs = []
    for layer in mine:
        fitting = [other for other in yours if other.look == layer.look]
        if len(fitting) != 1 or sum(other.look == layer.look for other in mine) != 1:
            raise MismatchError(f"outside of the blocks, {len(fitting)} of its layers could be {layer.name!r}")
        pairs.append((layer, fitting[0]))
    return pairs


def _branch(layer: Layer, block: tuple[str, ...]) -> str:
    """Return the part of a block that a layer is in: `downsample` of `downsample.0`, none for a layer right in it."""
    rest = layer.name.split(".")[len(block) :]
    return rest[0] if len(rest) > 1 else ""


def _pair_blocks(
    mine: Sequence[Sequence[Layer]], yours: Mapping[tuple[str, ...], Sequence[Layer]], *, ordered: bool
) -> Pairs:
    """Pair the layers of all blocks: of each kind by order, with the branches in an order that is the same everywhere.

    A file's own order of branches is taken if it fits; another one only if there is no second that pairs differently.
    """
    branches = list(dict.fromkeys(_branch(layer, block) for block, layers in yours.items() for layer in layers))
    fitting: list[Pairs] = []
    for order in _orders(branches):
        pairs = _pair_in(order, mine, yours)
        if pairs is not None and not any(_keys(pairs) == _keys(other) for other in fitting):
            fitting.append(pairs)
        if fitting and ordered and order == tuple(branches):
            break
    if len(fitting) != 1:
        way = "more than one order" if fitting else "no order"
        raise MismatchError(f"the blocks hold the right layers, but {way} of them fits the network's")
    return fitting[0]


def _pair_in(
    order: Sequence[str], mine: Sequence[Sequence[Layer]], yours: Mapping[tuple[str, ...], Sequence[Layer]]
) -> Pairs | None:
    """Pair the layers of all blocks, whose branches come in this order; None if that does not fit."""
    pairs: Pairs = []
    for own, (prefix, layers) in zip(mine, yours.items(), strict=True):
        arranged = sorted(layers, key=lambda layer: order.index(_branch(layer, prefix)))
        found = list(_pair_block(own, arranged))
        if len(found) != len(own):
            return None
        pairs += found
    return pairs


def _orders(branches: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield orders of branches, the given one first."""
    if len(branches) > _MOST_BRANCHES:
        yield tuple(branches)
    else:
        yield from permutations(branches)


def _pair_block(mine: Sequence[Layer], yours: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Pair one block's layers, each kind in its order; fewer pairs than layers if they do not fit."""
    for kind in dict.fromkeys(layer.kind for layer in mine):
        own = [layer for layer in mine if layer.kind == kind]
        others = [layer for layer in yours if layer.kind == kind]
        for layer, other in zip_longest(own, others):
            if layer is None or other is None or layer.look != other.look:
                return
            yield layer, other
