"""What one training run is about: a recipe, a seed, and the data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.recipe import Recipe
from training.schedules import cycle_ends, factor
from zoo.data import Split
from zoo.errors import UsageError

__all__ = ["Job"]


@dataclass(frozen=True, eq=False)
class Job:
    """A recipe, a seed, and the data.

    Attributes:
        recipe: what to do.
        seed: of the initial weights, the order of the images and their augmentation.
        dataset: name of the data.
        part: the images to train on.
        val: the validation split: evaluated after each epoch, never trained on.
        mean: per channel, in units of 0..1; for CIFAR the usual constants, which are of all 50,000 images.
        std: per channel, likewise.
        overrides: `key=value` of the recipe that were given where training was started.
        teacher: which network or committee is distilled, if one was given, as JSON can say it; for the records.
    """

    recipe: Recipe
    seed: int
    dataset: str
    part: Split
    val: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    overrides: tuple[str, ...] = ()
    teacher: str | Mapping[str, Any] = ""

    def check(self) -> None:
        """Raise `UsageError` if the images are too few for the recipe."""
        recipe, images = self.recipe, len(self.part)
        if not self.steps:
            raise UsageError(
                f"recipe {recipe.name!r}: {images} training images do not fill a batch of {recipe.batch_size}: "
                "lower it with --set batch_size=N"
            )
        if not len(self.val):
            raise UsageError(f"{images} training images are too few to hold any out for validation")
        for group in recipe.all_groups():
            if group.schedule.kind == "lambda":  # an expression may lack a value at any one step
                at = factor(group.schedule, self.steps, self.steps_per_epoch)
                for step in range(self.steps):
                    at(step)
        ends = [0, *self.snapshot_steps, self.steps]
        if recipe.snapshots and len(set(ends)) < len(ends):
            raise UsageError(
                f"recipe {recipe.name!r}: {self.steps} steps are too few for {recipe.schedule.cycles} cycles"
                " with a snapshot each: lower schedule.cycles"
            )

    @property
    def stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation, as `zoo.images.normalize` takes them."""
        return self.mean, self.std

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 if the images do not fill a batch."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch: its full batches."""
        return len(self.part) // self.recipe.batch_size

    @property
    def snapshot_steps(self) -> list[int]:
        """Steps at whose end a snapshot is kept: the ends of the schedule's cycles but the last, which ends the run."""
        schedule = self.recipe.schedule
        if not self.recipe.snapshots:
            return []
        warm = schedule.warmup * self.steps
        ends = [round(warm + end * (self.steps - warm)) for end in cycle_ends(schedule)[:-1]]
        if schedule.by == "epoch":  # the rate restarts when the next epoch begins
            ends = [math.ceil(end / self.steps_per_epoch) * self.steps_per_epoch for end in ends]
        return ends

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.part.images.shape[1], self.part.images.shape[2]
