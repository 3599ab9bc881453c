"""The layers that a state dict tells of: which tensors belong together, and what each of them is."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

__all__ = ["COUNTER", "Kind", "Layer", "Shape", "by_name", "layers_of"]

Kind = Literal["conv", "linear", "norm", "other"]
Shape = tuple[int, ...]

COUNTER = "count"
"""The role of `num_batches_tracked`, which no evaluation reads and old files lack."""

_ROLES: Mapping[str, str] = {
    role: name
    for name, roles in {
        "weight": ("weight", "kernel", "gamma", "scale"),
        "bias": ("bias", "beta", "offset"),
        "mean": ("running_mean", "moving_mean"),
        "var": ("running_var", "moving_var", "moving_variance"),
        COUNTER: ("num_batches_tracked",),
    }.items()
    for role in roles
}
"""Last part of a tensor's name -> what it is to its layer, in PyTorch's words and in those of others."""

_KIND_WORDS = re.compile(r"conv(olution)?|batch_?norm|norm|bn|gn")
_NUMBER = re.compile(r"(\d+)")


class Layer(NamedTuple):
    """Tensors of one layer.

    Attributes:
        name: what their names have in common.
        kind: `conv` and `linear` by their weights' dimensions, `norm` if there are only vectors.
        keys: role -> name of the tensor.
        shapes: (role, shape), sorted, without the counter: two layers with the same can stand in for each other.
    """

    name: str
    kind: Kind
    keys: Mapping[str, str]
    shapes: tuple[tuple[str, Shape], ...]

    @property
    def look(self) -> tuple[Kind, tuple[tuple[str, Shape], ...]]:
        """What a layer must share with another one to be paired with it."""
        return self.kind, self.shapes


def layers_of(shapes: Mapping[str, Shape]) -> list[Layer]:
    """Gather the tensors of a state dict into layers, in the order in which each is first named.

    A tensor of two or more dimensions is a layer's weight, whatever its name ends in: some name it as their layer is.

    Args:
        shapes: name of a tensor -> its shape.
    """
    gathered: dict[str, dict[str, str]] = {}
    for key, shape in shapes.items():
        parent, _, leaf = key.rpartition(".")
        role = _ROLES.get(leaf.lower())
        if len(shape) > 1:
            name, role = (parent, "weight") if role == "weight" else (key, "weight")
        else:
            name, role = parent, role or leaf
        gathered.setdefault(name, {})[role] = key
    return [_layer(name, keys, shapes) for name, keys in gathered.items()]


def _layer(name: str, keys: Mapping[str, str], shapes: Mapping[str, Shape]) -> Layer:
    own = tuple(sorted((role, shapes[key]) for role, key in keys.items() if role != COUNTER))
    kind: Kind = "other"
    if {role for role, _ in own} <= {"weight", "bias", "mean", "var"}:
        dimensions = len(dict(own).get("weight", ()))
        kind = {4: "conv", 2: "linear", 1: "norm"}.get(dimensions, "other")  # type: ignore[assignment]
    return Layer(name, kind, keys, own)


def by_name(names: Iterable[str]) -> list[str]:
    """Sort names as people count: `block2` before `block10`, and `bn2` beside `conv2`.

    Words that say what kind a layer is play no part, so that layers of different kinds come in the same order.
    """
    return sorted(names, key=_rank)


def _rank(name: str) -> list[list[tuple[bool, int, str]]]:
    """Return what to compare names by: for each part between dots, its numbers and words; numbers come first."""
    parts = []
    for part in name.split("."):
        plain = _KIND_WORDS.sub("", part.lower()).strip("_") if not part.isdigit() else part
        parts.append([(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in _NUMBER.split(plain) if p])
    return parts
