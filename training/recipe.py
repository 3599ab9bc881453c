"""Recipes: everything that decides a training run except its seed and its data, as a TOML file."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any, Literal, TypeVar, get_args, get_origin

from zoo.errors import UsageError
from zoo.names import suggestion

__all__ = ["Augment", "ParamGroup", "Recipe", "Whitening", "load_recipe", "recipe_names"]

_T = TypeVar("_T")
_ACCEPTED: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}


@dataclass(frozen=True)
class Augment:
    """Augmentation of each batch.

    Attributes:
        flip: left-right flips: `none`, `random` (each image, each epoch, with probability 1/2), or `alternating`
            (drawn once, then flipped again every epoch; arXiv:2404.00498, section 3.6).
        crop_padding: reflected pixels on each side, out of which the original size is cropped at random.
    """

    flip: Literal["none", "random", "alternating"] = "none"
    crop_padding: int = 0


@dataclass(frozen=True)
class Whitening:
    """Patch whitening of a network's first layer, from `images` training images; `eps` is added to the variances."""

    images: int
    eps: float


@dataclass(frozen=True)
class ParamGroup:
    """The optimizer of the parameters whose names match.

    Attributes:
        params: shell pattern over parameter names; the first group that matches a parameter gets it.
        optimizer: `sgd`, or `muon` for convolution filters.
        lr: learning rate at the start.
        momentum: Nesterov momentum, in [0, 1).
        weight_decay: as torch.optim.SGD (coupled) or torch.optim.Muon (decoupled) define it.
        schedule: how the learning rate falls to zero: `linear`, or along half a `cosine` (arXiv:1608.03983).
        anneal: share of the run over which it falls, in (0, 1].
        normalize: (muon) rescale each layer's filters to unit root-mean-square norm before every update.
    """

    params: str
    optimizer: Literal["sgd", "muon"]
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine"] = "linear"
    anneal: float = 1.0
    normalize: bool = False


@dataclass(frozen=True)
class Recipe:
    """A training recipe.

    Attributes:
        name: the file's name without `.toml`.
        arch: architecture, a key of `zoo.archs.ARCHS`.
        arch_args: arguments that differ from the variant's.
        epochs: passes over the training images.
        batch_size: images a step; the images of an epoch that do not fill a batch are left out of it.
        precision: `fp32`, or `bf16` (autocast; weights stay in fp32).
        label_smoothing: probability mass spread over all classes, in [0, 1).
        augment: see `Augment`.
        groups: see `ParamGroup`.
        whitening: see `Whitening`; none by default.
    """

    name: str
    arch: str
    epochs: int
    batch_size: int
    precision: Literal["fp32", "bf16"]
    groups: tuple[ParamGroup, ...]
    label_smoothing: float = 0.0
    augment: Augment = field(default_factory=Augment)
    whitening: Whitening | None = None
    arch_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ok, what in (
            (self.epochs > 0, "epochs must be above 0"),
            (self.batch_size > 1, "batch_size must be above 1"),
            (0 <= self.label_smoothing < 1, "label_smoothing must be in [0, 1)"),
            (self.augment.crop_padding >= 0, "augment.crop_padding must not be negative"),
            (isinstance(self.arch_args, Mapping), "arch_args is a table: [arch_args]"),
            (bool(self.groups), "at least one [[groups]] is needed"),
            (all(0 < g.anneal <= 1 for g in self.groups), "groups.anneal must be in (0, 1]"),
            (all(0 < g.lr < math.inf for g in self.groups), "groups.lr must be finite and above 0"),
            (all(0 <= g.momentum < 1 for g in self.groups), "groups.momentum must be in [0, 1)"),
            (all(0 <= g.weight_decay < math.inf for g in self.groups), "groups.weight_decay must not be negative"),
            (self.whitening is None or self.whitening.images > 0, "whitening.images must be above 0"),
            (self.whitening is None or 0 <= self.whitening.eps < math.inf, "whitening.eps must not be negative"),
        ):
            if not ok:
                raise UsageError(f"recipe {self.name!r}: {what}")


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in files("training").joinpath("recipes").iterdir())


def load_recipe(name: str) -> Recipe:
    """Read a recipe of the package.

    Raises:
        UsageError: no such recipe, or the file has an unknown key or a value of the wrong type.
    """
    if name not in recipe_names():
        raise UsageError(
            f"unknown recipe {name!r}{suggestion(name, recipe_names())}; there are {', '.join(recipe_names())}"
        )
    text = files("training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    return parse_recipe(name, text)


def parse_recipe(name: str, text: str) -> Recipe:
    """Turn a recipe's TOML text into a `Recipe`; errors as in `load_recipe`."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {name!r} is not valid TOML: {error}") from error
    where = f"recipe {name!r}"
    if "augment" in table:
        table["augment"] = _build(Augment, table["augment"], f"{where}, [augment]")
    if "whitening" in table:
        table["whitening"] = _build(Whitening, table["whitening"], f"{where}, [whitening]")
    groups = table.get("groups", [])
    if not isinstance(groups, list):
        raise UsageError(f"{where}: groups is a list of tables: [[groups]]")
    table["groups"] = tuple(_build(ParamGroup, g, f"{where}, [[groups]]") for g in groups)
    if "name" in table:
        raise UsageError(f"{where}: a recipe's name is its file's, not a key")
    return _build(Recipe, {"name": name, **table}, where)


def _build(kind: type[_T], table: Any, where: str) -> _T:  # noqa: ANN401  # whatever TOML has there
    """Make a dataclass of a TOML table; unknown keys, missing keys and wrong types are refused."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: a table is needed, not {table!r}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # only called with dataclasses
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{suggestion(key, known)}")
        wanted = known[key].type
        if get_origin(wanted) is Literal and value not in get_args(wanted):
            raise UsageError(f"{where}: {key} is {value!r}, not one of {', '.join(map(str, get_args(wanted)))}")
        if type(value) not in _ACCEPTED.get(wanted, (type(value),)):
            raise UsageError(f"{where}: {key} is {value!r}, not of type {getattr(wanted, '__name__', wanted)}")
    try:
        return kind(**table)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error
