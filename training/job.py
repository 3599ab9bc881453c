"""What one training run is about: a recipe, a seed, and the data."""

from dataclasses import dataclass

from training.recipe import Recipe
from zoo.data import Split

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
    """

    recipe: Recipe
    seed: int
    dataset: str
    part: Split
    val: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation, as `zoo.images.normalize` takes them."""
        return self.mean, self.std

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 if the images do not fill a batch."""
        return self.recipe.epochs * (len(self.part) // self.recipe.batch_size)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.part.images.shape[1], self.part.images.shape[2]
