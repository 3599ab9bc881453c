"""Tiny jobs: narrow networks, and images whose class is their colour, learnt in a few steps."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.augment import Answers
from training.distill import Teacher
from training.job import Job
from training.loop import Trained, train
from training.recipe import (
    Augment,
    Average,
    Distill,
    Norms,
    Optimizer,
    ParamGroup,
    Recipe,
    Schedule,
    Whitening,
)
from training.run import RunFolder
from zoo.data import MEAN_STD, Split

CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue")


def toy_split(images: int, seed: int = 0, size: int = 32) -> Split:
    """Noise that is brighter in the channel that is the label."""
    rng = np.random.default_rng([seed, images])
    labels = np.arange(images, dtype=np.int64) % len(COLOURS)
    pixels = rng.integers(0, 96, (images, size, size, len(COLOURS)), dtype=np.uint8)
    pixels[np.arange(images), :, :, labels] += 128
    return Split(pixels, labels, COLOURS)


def fastnet_recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    """Everything that the shipped fastnet recipe has, with learning rates for a network of width 8."""
    sgd, linear = Optimizer(0.05, momentum=0.85, weight_decay=1e-4), Schedule("linear")
    fields: dict[str, Any] = {
        "name": "toy",
        "arch": "fastnet",
        "arch_args": {"widths": [8, 8, 8]},
        "epochs": 2,
        "batch_size": 8,
        "precision": "bf16",
        "label_smoothing": 0.2,
        "augment": Augment("alternating", 2),
        "whitening": Whitening(images=20, eps=5e-4),
        "optimizer": sgd,
        "schedule": linear,
        "groups": (
            ParamGroup("whiten.bias", sgd, Schedule("cosine", end=0.375)),
            ParamGroup("head.weight", Optimizer(2.0, momentum=0.85, weight_decay=1e-4), linear),
            ParamGroup("*.conv?.weight", Optimizer(0.2, "muon", momentum=0.6, normalize=True), linear),
        ),
    }
    return Recipe(**(fields | changes))


def noisy_recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    """SGD on a network that draws from torch's global generator in every step."""
    fields: dict[str, Any] = {
        "name": "noisy",
        "arch": "wrn16-2",
        "arch_args": {"depth": 10, "width": 1, "dropout": 0.3, "shakedrop": 0.5},
        "epochs": 2,
        "batch_size": 8,
        "precision": "fp32",
        "augment": Augment("random", 1),
        "optimizer": Optimizer(0.05, momentum=0.9, weight_decay=5e-4),
        "schedule": Schedule("linear"),
    }
    return Recipe(**(fields | changes))


def plain_recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    """SGD on a network that looks at each image alone, and draws nothing: batches may be cut into parts."""
    fields: dict[str, Any] = {
        "name": "plain",
        "arch": "resnet20",
        "arch_args": {"depth": 8, "widths": [8, 8, 8], "norm": "group"},
        "epochs": 2,
        "batch_size": 8,
        "precision": "fp32",
        "optimizer": Optimizer(0.05, momentum=0.9, weight_decay=5e-4),
        "schedule": Schedule("linear"),
        "augment": Augment("random", 1, policy="randaugment", cutout=4),
    }
    return Recipe(**(fields | changes))


def rich_recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    """The same network with as much switched on as goes together."""
    adamw = Optimizer(0.01, "adamw", momentum=0.9, weight_decay=0.05)
    fields: dict[str, Any] = {
        "name": "rich",
        "arch": "wrn16-2",
        "arch_args": {"depth": 10, "width": 1, "dropout": 0.3},
        "epochs": 2,
        "batch_size": 8,
        "precision": "bf16",
        "optimizer": adamw,
        "schedule": Schedule("onecycle"),
        "groups": (ParamGroup("*.bias", Optimizer(0.02, momentum=0.8), Schedule("plateau", patience=0, gamma=0.5)),),
        "label_smoothing": 0.1,
        "clip_norm": 1.0,
        "accumulate": 2,
        "channels_last": True,
        "augment": Augment("random", 1, "zeros", "randaugment", cutout=4, mix="random", mix_share=0.8),
        "norms": Norms(ghost=2, scale=0.5),
        "average": Average("ema", every=2, decay=0.9),
        "distill": Distill("self", 2.0, 0.3),
    }
    return Recipe(**(fields | changes))


def toy_job(recipe: Recipe, seed: int = 0, images: int = 34) -> Job:
    """34 images are four batches of eight, and two images too many; as small as the network allows."""
    size = 12 if recipe.arch in {"wrn16-2", "resnet20"} else 26
    return Job(recipe, seed, "colours", toy_split(images, 1, size), toy_split(15, 2, size), *MEAN_STD["cifar10"])


def fit(job: Job, folder: Path, save_every: float = 0.0, teacher: Teacher | Answers | None = None) -> Trained:
    """Train to the end."""
    run = RunFolder(folder, job)
    return train(job, run, device=CPU, progress=lambda _row: None, save_every=save_every, teacher=teacher)
