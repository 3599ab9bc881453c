"""The network that a run starts from."""

import torch
from torch import nn

from training.job import Job
from training.norms import freeze_scales, ghost_batch_norm
from training.recipe import Recipe
from training.whitening import whiten_first_layer
from zoo.archs import create
from zoo.errors import UsageError
from zoo.images import normalize

__all__ = ["check_job", "check_recipe", "prepare_network"]


def check_recipe(recipe: Recipe) -> None:
    """Raise `UsageError` if there is no such architecture, or not with these arguments; no data is needed."""
    with torch.device("meta"):
        create(recipe.arch, 10, **recipe.arch_args)


def check_job(job: Job) -> None:
    """Raise `UsageError` if the images do not do for the recipe: too few, or of a size that its network does not take.

    Nothing is computed.
    """
    job.check()
    _check_size(job)


def prepare_network(job: Job) -> nn.Module:
    """Return the network that a job starts from, on the CPU: created from its seed, whitened, its norms changed.

    Raises:
        UsageError: the recipe does not fit the network.
    """
    recipe = job.recipe
    _check_size(job)
    torch.manual_seed(job.seed)
    net = create(recipe.arch, len(job.part.classes), **recipe.arch_args)
    if recipe.whitening:
        layer = getattr(net, "whiten", None)
        if not isinstance(layer, nn.Conv2d):
            raise UsageError(f"recipe {recipe.name!r}: {recipe.arch} has no whitening layer")
        sample = torch.from_numpy(job.part.images[: recipe.whitening.images])
        whiten_first_layer(layer, normalize(sample, *job.stats), recipe.whitening.eps)
    if recipe.norms.scale:
        freeze_scales(net, recipe.norms.scale)
    if recipe.norms.ghost:
        ghost_batch_norm(net, recipe.norms.ghost)
    return net.to(memory_format=torch.channels_last) if recipe.channels_last else net


def _check_size(job: Job) -> None:
    """Raise `UsageError` if the network does not take images of the data's size; nothing is computed."""
    recipe, (height, width) = job.recipe, job.input_size
    with torch.device("meta"), torch.no_grad():
        net = create(recipe.arch, len(job.part.classes), **recipe.arch_args).eval()
        try:
            net(torch.empty(1, 3, height, width))
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"recipe {recipe.name!r}: {recipe.arch} does not take images of {height} x {width} pixels: "
                "give --size N for pictures, or choose another recipe"
            ) from error
