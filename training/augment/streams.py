"""Independent streams of random numbers: any draw of any epoch can be had again."""

from enum import IntEnum

import numpy as np
import torch

__all__ = ["Stream", "numpy_generator", "torch_generator"]


class Stream(IntEnum):
    """What is drawn. Numbers are never used again for something else, so that old runs can be repeated."""

    ORDER = 0  # and the offsets of the crops
    FLIP = 1
    POLICY = 2
    CUTOUT = 3
    MIX = 4
    STEP = 5  # dropout, ShakeDrop and the like
    CROPS = 6  # those that a teacher's answers are stored for
    PICK = 7  # which of them an image shows


def torch_generator(seed: int, stream: Stream, epoch: int) -> torch.Generator:
    """Return a CPU generator for one stream of draws in one epoch (from 0) of the run with this seed."""
    state = np.random.SeedSequence([seed, stream, epoch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def numpy_generator(seed: int, stream: Stream, epoch: int) -> np.random.Generator:
    """Return the same for what torch cannot draw from a generator of one's own, such as a beta distribution."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, epoch]))
