"""Tiny jobs: narrow networks, and images whose class is their colour, learnt in a few steps."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.job import Job
from training.loop import Trained, train
from training.recipe import Augment, ParamGroup, Recipe, Whitening
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
        "groups": (
            ParamGroup("whiten.bias", "sgd", 0.05, 0.85, 1e-4, "cosine", 0.375),
            ParamGroup("*.norm?.bias", "sgd", 0.05, 0.85, 1e-4),
            ParamGroup("head.weight", "sgd", 2.0, 0.85, 1e-4),
            ParamGroup("*.conv?.weight", "muon", 0.2, 0.6, normalize=True),
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
        "groups": (ParamGroup("*", "sgd", 0.05, 0.9, 5e-4),),
    }
    return Recipe(**(fields | changes))


def toy_job(recipe: Recipe, seed: int = 0, images: int = 34) -> Job:
    """34 images are four batches of eight, and two images too many; as small as the network allows."""
    size = 12 if recipe.arch == "wrn16-2" else 26
    return Job(recipe, seed, "colours", toy_split(images, 1, size), toy_split(15, 2, size), *MEAN_STD["cifar10"])


def fit(job: Job, folder: Path, save_every: float = 0.0) -> Trained:
    """Train to the end."""
    return train(job, RunFolder(folder, job), device=CPU, progress=lambda _row: None, save_every=save_every)
