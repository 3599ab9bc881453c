"""Recipes: everything that decides a training run except its seed and its data."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from training.tables import Augment, Average, Distill, Norms, Optimizer, Sam, Schedule, Whitening, demand

__all__ = [
    "Augment",
    "Average",
    "Distill",
    "Norms",
    "Optimizer",
    "ParamGroup",
    "Recipe",
    "Sam",
    "Schedule",
    "Whitening",
]


@dataclass(frozen=True)
class ParamGroup:
    """The parameters whose names match, and what moves them.

    Attributes:
        params: shell pattern over parameter names; the first group that matches a parameter gets it.
        optimizer: the recipe's, with what the group says of its own.
        schedule: likewise.
    """

    params: str
    optimizer: Optimizer
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    """A training recipe.

    Attributes:
        name: the file's name without `.toml`.
        arch: architecture, a key of `zoo.archs.ARCHS`.
        epochs: passes over the training images.
        batch_size: images a step, of all processes together; an epoch's images that do not fill a batch are left out.
        precision: `fp32`, or `bf16` or `fp16` (autocast; weights stay in fp32; fp16's loss is scaled).
        optimizer: see `Optimizer`; of every parameter that no group matches.
        schedule: see `Schedule`.
        groups: see `ParamGroup`.
        label_smoothing: probability mass spread over all classes, in [0, 1).
        clip_norm: the gradient is shortened to this L2 norm; 0 leaves it alone.
        accumulate: parts that a batch goes through the network in, one after another.
        channels_last: keep the weights in channels-last memory format, as the images are.
        compile: torch.compile the network on a GPU. (On a CPU it is left out: measured to be slower there.)
        augment: see `Augment`.
        norms: see `Norms`.
        whitening: see `Whitening`; none by default, as of those below.
        sam: see `Sam`.
        average: see `Average`.
        distill: see `Distill`.
        snapshots: file the network as it was at the end of each of the schedule's cycles too (arXiv:1704.00109).
        arch_args: arguments that differ from the variant's.
    """

    name: str
    arch: str
    epochs: int
    batch_size: int
    precision: Literal["fp32", "bf16", "fp16"]
    optimizer: Optimizer
    schedule: Schedule = field(default_factory=Schedule)
    groups: tuple[ParamGroup, ...] = ()
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    augment: Augment = field(default_factory=Augment)
    norms: Norms = field(default_factory=Norms)
    whitening: Whitening | None = None
    sam: Sam | None = None
    average: Average | None = None
    distill: Distill | None = None
    snapshots: bool = False
    arch_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {group.optimizer.kind for group in self.all_groups()}
        muon = "muon" in kinds
        demand(
            (self.epochs > 0, "epochs must be above 0"),
            (self.batch_size > 1, "batch_size must be above 1"),
            (0 <= self.label_smoothing < 1, "label_smoothing must be in [0, 1)"),
            (0 <= self.clip_norm < math.inf, "clip_norm must be finite and not negative"),
            (self.accumulate > 0, "accumulate must be above 0"),
            (self.batch_size % max(self.accumulate, 1) == 0, "batch_size must be a multiple of accumulate"),
            (not muon or self.precision != "fp16", "muon works in bf16 or fp32, not in fp16"),
            (not muon or not self.channels_last, "muon needs contiguous filters: no channels_last"),
            (
                not self.snapshots or self.schedule.kind in {"restarts", "cyclic"},
                "snapshots needs a schedule of cycles: restarts or cyclic",
            ),
        )

    def all_groups(self) -> Iterable[ParamGroup]:
        """Return the groups, followed by one for all parameters that they leave."""
        return (*self.groups, ParamGroup("*", self.optimizer, self.schedule))
