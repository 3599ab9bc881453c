"""`zoo train`: a recipe, a seed and data become an entry."""

from typing import TYPE_CHECKING

import click

from zoo.cli.complete import recipe_names
from zoo.cli.training_options import TrainingOptions, training_options
from zoo.cli.training_run import dry_run, train_and_file
from zoo.cli.types import TEXT
from zoo.errors import UsageError

if TYPE_CHECKING:
    import torch

    from training.distill import Teacher
    from training.job import Job
    from zoo.entry import Entry

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", type=TEXT, shell_complete=recipe_names)
@click.option("--teacher", type=TEXT, metavar="NAME", help="Entry to distil from, for a recipe with a [distill] table.")
@training_options
def command(*, recipe: str, teacher: str | None, options: TrainingOptions) -> None:
    """Train a network on 90 % of the training images and file it, with its predictions, in the zoo.

    RECIPE is the name of a recipe of this package, or the path of a TOML file. The other 10 %, the validation split, is
    never trained on. Stopped by Ctrl-C or killed at any moment, the same command goes on where the run was. Under
    torchrun, all its processes train the one network. With --json, val_accuracy is a fraction, on the
    validation split with flip; the list has one entry unless the recipe keeps snapshots or samples.

    \b
      zoo train fastnet --seed 6 --data cifar10/
      zoo train wrn28-10 --seed 1 --data photos/ --size 32 --set epochs=30 --set optimizer.lr=0.05
      zoo train pyramid272 --dry-run
      torchrun --nproc-per-node 8 --no-python zoo train pyramid272 --seed 1 --data cifar10/
    """
    # Names and recipes are checked before anything slow.
    from training.recipe_file import load_recipe

    chosen = load_recipe(recipe, options.overrides)
    wanted = chosen.distill is not None and chosen.distill.teacher == "given"
    if teacher and not wanted:
        raise UsageError(f'--teacher {teacher!r}: recipe {chosen.name!r} has no [distill] table with teacher = "given"')
    if wanted and not teacher and not options.dry_run:
        raise UsageError(f"recipe {chosen.name!r} distils: give --teacher NAME")
    if options.seed is None and not options.dry_run:
        raise UsageError("--seed is missing: a number, which decides weights, order and augmentation")
    if not teacher:
        (dry_run if options.dry_run else train_and_file)(chosen, options)
        return

    from training.distill import check_teacher
    from zoo import store

    entry = store.find(teacher)

    def check(job: "Job") -> None:
        check_teacher(entry.card, job, f"--teacher {teacher!r}")

    if options.dry_run:
        dry_run(chosen, options, check)
    else:
        train_and_file(chosen, options, lambda job, device, _world: _teacher(entry, job, device), check)


def _teacher(entry: "Entry", job: "Job", device: "torch.device") -> "tuple[Teacher, str]":
    """Return an entry as a teacher, and which one it is.

    It takes the student's images, and is given them in its own mean and std.
    """
    import torch
    from torch import Tensor

    from zoo.files import SUMS, sha256_file

    net = entry.load().to(device)
    (mean, std), (its_mean, its_std) = (
        [torch.tensor(values, device=device).view(3, 1, 1) for values in stats]
        for stats in (job.stats, (entry.card.mean, entry.card.std))
    )

    def teach(images: Tensor) -> Tensor:
        logits: Tensor = net(((images * std + mean) - its_mean) / its_std)
        return logits

    return teach, f"{entry.name}@{sha256_file(entry.folder / SUMS)[:16]}"
