"""Pools of made-up logits, small enough to be checked by loops."""

import numpy as np
import pytest

from benchmarks.selection import made_up
from ensemble.fit.objective import Features
from ensemble.fit.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Seven candidates, 300 images of ten classes, two views."""
    return made_up(7, 300, seed=3)


@pytest.fixture
def contributions() -> Features:
    """Made-up probabilities of the labels, of nine members on 200 images: `[9, 1, 200]`."""
    rng = np.random.default_rng(5)
    easy = rng.beta(2, 1, 200)
    probs = np.clip(easy + rng.normal(0, 0.3, (9, 200)) - np.linspace(0, 0.2, 9)[:, None], 0.01, 0.99)
    return probs[:, None].astype(np.float32)
