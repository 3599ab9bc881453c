"""Labelled images: splits, fingerprints, and where they come from."""

from zoo.data.dataset import DATASETS, MEAN_STD, SPLITS, load_split, load_training
from zoo.data.split import Split, hold_out

__all__ = ["DATASETS", "MEAN_STD", "SPLITS", "Split", "hold_out", "load_split", "load_training"]
