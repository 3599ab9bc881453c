"""Shrinkage: equal weights unless the images say otherwise."""

import math

import numpy as np
import pytest

from benchmarks.selection import made_up
from ensemble.fit.shrinkage import shrunk_weights
from ensemble.fit.temperature import ensemble_temperature, tempered_losses
from ensemble.fit.weights import optimal_weights


def skilled(skills: list[float], images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[M, C, N]` of members that see the truth through independent noise, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, images)
    logits = rng.standard_normal((len(skills), 4, images))
    logits += np.array(skills)[:, None, None] * (np.arange(4)[:, None] == labels)
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True), labels


def test_members_of_one_skill_stay_equal_most_of_the_time() -> None:
    equal = 0
    for seed in range(10):
        probs, labels = skilled([2.0] * 5, 400, seed)
        assert np.ptp(optimal_weights(probs[:, labels, np.arange(400)])) > 0.02, "the optimum is not equal, by chance"
        found = shrunk_weights(probs, labels)
        assert np.ptp(found.weights) < 0.1
        equal += math.isinf(found.pull)
    assert equal >= 8


@pytest.mark.parametrize("seed", range(3))
def test_a_member_that_knows_nothing_loses_its_weight(seed: int) -> None:
    probs, labels = skilled([2.5, 2.5, 0.0], 2000, seed)
    found = shrunk_weights(probs, labels)
    assert found.pull < 2000
    assert found.weights[2] < 0.15


def test_no_tolerance_takes_a_pull_that_is_no_stronger() -> None:
    pool = made_up(6, 500, seed=1)
    probs = pool.probs(slice(None), "flip", np.ones(6))
    assert shrunk_weights(probs, pool.labels, 0.0).pull <= shrunk_weights(probs, pool.labels).pull


def test_the_loss_is_of_images_that_were_not_fitted_on() -> None:
    """Every fold by hand, for the equal weights that are chosen here."""
    probs, labels = skilled([2.0] * 3, 100, 0)
    found = shrunk_weights(probs, labels)
    assert math.isinf(found.pull)
    losses = []
    for fold in range(5):
        held = np.arange(100) % 5 == fold
        temperature = ensemble_temperature(probs[..., ~held].mean(0).T, labels[~held])
        losses.append(tempered_losses(probs[..., held].mean(0), labels[held], temperature))
    assert found.loss == pytest.approx(np.concatenate(losses).mean(), rel=1e-6)


def test_a_single_member_has_all_the_weight() -> None:
    probs, labels = skilled([1.0], 60, 0)
    found = shrunk_weights(probs, labels)
    assert found.weights.tolist() == [1.0]
    assert found.loss is not None


def test_a_handful_of_images_says_nothing() -> None:
    probs, labels = skilled([3.0, 0.0], 9, 0)
    found = shrunk_weights(probs, labels)
    assert (found.weights.tolist(), found.loss) == ([0.5, 0.5], None)
