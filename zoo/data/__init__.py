"""Labelled images: splits, fingerprints, and where they come from."""

from zoo.data.dataset import DATASETS, SPLITS, dataset_name, load_all, load_split, load_training
from zoo.data.split import Split, hold_out
from zoo.data.statistics import MEAN_STD, mean_std

__all__ = [
    "DATASETS",
    "MEAN_STD",
    "SPLITS",
    "Split",
    "dataset_name",
    "hold_out",
    "load_all",
    "load_split",
    "load_training",
    "mean_std",
]
