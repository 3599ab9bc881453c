"""Every recipe that ships trains its own network for two steps, with all that it switches on, on a few small images."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import random_split
from tests.training.conftest import fit
from training.job import Job
from training.prepare import prepare_network
from training.recipe import Recipe
from training.recipe_file import load_recipe, recipe_names
from zoo.data import MEAN_STD

SMALLEST = {"fastnet": 25, "fastnet96": 25, "resnet9": 16}
"""Sides of the smallest images that an architecture takes, where that is not 8 pixels."""


def two_steps(recipe: Recipe, classes: int) -> Job:
    """Keep all of a recipe but its budget."""
    small = replace(recipe, batch_size=4, epochs=1)
    if small.whitening:
        small = replace(small, whitening=replace(small.whitening, images=8))
    side = SMALLEST.get(recipe.arch, 8)
    if small.augment.cutout:  # as large a part of the image
        small = replace(small, augment=replace(small.augment, cutout=small.augment.cutout * side // 32))
    part, val = (random_split(count, classes, seed, side) for seed, count in ((1, 8), (2, 4)))
    return Job(small, 1, "cifar10" if classes == 10 else "cifar100", part, val, *MEAN_STD["cifar10"])


def biased(images: Tensor) -> Tensor:
    """A teacher that takes every image for the first class, more or less."""
    return torch.tensor([3.0] + [0.0] * 9).expand(len(images), 10)


SHORT = ["pyramid110-a270-30ep", "pyramid272-30ep", "wrn28-10-30ep", "wrn40-10-30ep"]
SAME = [name for name in SHORT if name != "wrn28-10-30ep"]
"""Recipes that are `wrn28-10-30ep` for another large network, which has a recipe of its own here."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SAME)) for name in recipe_names()]
)
def test_it_trains(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    job = two_steps(recipe, 100 if name in {"cnn6", "resnet9"} else 10)
    taught = recipe.distill is not None and recipe.distill.teacher == "given"
    trained = fit(job, tmp_path, teacher=biased if taught else None)
    (row,) = trained.rows
    assert math.isfinite(row["train_loss"])
    assert row["train_loss"] > 0
    assert all(bool(p.isfinite().all()) for p in trained.net.parameters())
    begun = prepare_network(job)
    same = {n for n, p in begun.named_parameters() if torch.equal(p, trained.net.get_parameter(n))}
    assert same == {n for n, p in begun.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("name", SHORT)
def test_short_budgets_train_the_same_network_for_30_epochs(name: str) -> None:
    short, long = load_recipe(name), load_recipe(name.removesuffix("-30ep"))
    assert short.arch == long.arch
    assert short.epochs == 30 < long.epochs


def test_what_the_long_recipes_are_known_for() -> None:
    """The values of the papers and of the design."""
    pyramid = load_recipe("pyramid272")
    assert (pyramid.epochs, pyramid.batch_size, pyramid.optimizer.lr) == (1800, 64, 0.05)
    assert (pyramid.optimizer.weight_decay, pyramid.schedule.kind) == (5e-5, "cosine")
    assert (pyramid.augment.policy, pyramid.augment.cutout, pyramid.arch_args["shakedrop"]) == ("autoaugment", 16, 0.5)
    sam = load_recipe("pyramid272-sam")
    assert sam.sam is not None
    assert (sam.sam.rho, sam.batch_size, sam.optimizer.weight_decay) == (0.05, 256, 5e-4)
    wide = load_recipe("pyramid110-a270")
    assert wide.average is not None
    assert (wide.epochs, wide.label_smoothing, wide.clip_norm) == (300, 0.1, 1.0)
    assert (wide.average.kind, wide.average.decay) == ("ema", 0.9999)
    assert (wide.augment.policy, wide.augment.mix) == ("autoaugment", "random")
    assert wide.augment.cutout > 0 < wide.schedule.warmup
    assert load_recipe("wrn40-10").arch_args["shakedrop"] == 0.5


def test_a_distilled_recipe_is_its_own_with_a_teacher_and_more_patience() -> None:
    taught, plain = load_recipe("fastnet-distilled"), load_recipe("fastnet")
    assert taught.distill is not None
    assert (taught.distill.teacher, taught.distill.hard_share, taught.label_smoothing) == ("given", 0.0, 0.0)
    assert taught.epochs == 2 * plain.epochs
    # For the same error, the gradient that reaches a layer is larger by the temperature squared.
    slower, faster = taught.optimizer, plain.optimizer
    assert slower.lr * taught.distill.temperature**2 == pytest.approx(faster.lr, rel=2e-3)
    assert slower.lr * slower.weight_decay == pytest.approx(faster.lr * faster.weight_decay, rel=2e-3)
    changed = {
        "name": "fastnet",
        "epochs": plain.epochs,
        "label_smoothing": plain.label_smoothing,
        "distill": None,
        "optimizer": faster,
        "groups": plain.groups,
    }
    assert replace(taught, **changed) == plain  # type: ignore[arg-type]  # fields of a recipe
