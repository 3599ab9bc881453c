"""Temperatures, held to scipy's minimisers and to plain formulas."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ensemble.fit.pool import Pool
from ensemble.fit.temperature import BOUNDS, ensemble_temperature, fit_temperatures, tempered_losses
from ensemble.merge import Vote, merge
from ensemble.metrics import nll
from zoo.data.split import Labels


def loss_at(temperature: float, logits: np.ndarray, weights: list[float], labels: Labels) -> float:
    """Log-loss of one member `[V, C, N]` at a temperature, by the code that evaluates committees."""
    return nll(merge([Vote(logits.transpose(0, 2, 1), weights, 1.0, temperature)], "probs")[0], labels)


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
def test_members_temperatures_are_scipys(pool: Pool, weights: list[float]) -> None:
    found = fit_temperatures(pool.logits, np.array(weights), pool.labels)
    assert found.shape == (7,)
    for member, temperature in zip(pool.logits, found, strict=True):
        best = minimize_scalar(
            lambda log_t, member=member: loss_at(math.exp(log_t), member, weights, pool.labels),
            bounds=(math.log(BOUNDS[0]), math.log(BOUNDS[1])),
            method="bounded",
            options={"xatol": 1e-8},
        )
        assert temperature == pytest.approx(math.exp(best.x), rel=1e-4)


def test_the_ensembles_temperature_is_scipys(pool: Pool) -> None:
    probs = softmax(pool.logits[:, 0].astype(np.float64), 1).mean(0).T
    best = minimize_scalar(
        lambda t: -log_softmax(np.log(probs) / t, 1)[np.arange(300), pool.labels].mean(),
        bounds=(0.1, 5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    found = ensemble_temperature(probs, pool.labels)
    assert found == pytest.approx(best.x, rel=1e-5)
    assert tempered_losses(probs.T, pool.labels, found).mean() == pytest.approx(best.fun, abs=1e-9)


def test_scaling_the_logits_scales_the_temperature(pool: Pool) -> None:
    weights = np.array([0.5, 0.5])
    logits = pool.logits.astype(np.float64)
    found = fit_temperatures(logits, weights, pool.labels)
    np.testing.assert_allclose(fit_temperatures(logits * 1.7, weights, pool.labels), found * 1.7, rtol=1e-5)


def test_a_constant_added_to_an_images_logits_changes_nothing(pool: Pool) -> None:
    weights, logits = np.array([0.5, 0.5]), pool.logits.astype(np.float64)
    shift = np.random.default_rng(0).normal(0, 50, (7, 2, 1, 300))
    found = fit_temperatures(logits + shift, weights, pool.labels)
    np.testing.assert_allclose(found, fit_temperatures(logits, weights, pool.labels), rtol=1e-5)


def test_members_do_not_change_each_other(pool: Pool) -> None:
    weights = np.array([0.5, 0.5])
    alone = [fit_temperatures(pool.logits[m : m + 1], weights, pool.labels)[0] for m in range(7)]
    np.testing.assert_allclose(fit_temperatures(pool.logits, weights, pool.labels), alone, rtol=1e-5)


@pytest.mark.parametrize(("sign", "bound"), [(1, BOUNDS[0]), (-1, BOUNDS[1])])
def test_members_that_are_always_right_or_always_wrong_get_a_bound(sign: int, bound: float) -> None:
    labels = np.arange(10, dtype=np.int64)
    logits = (sign * np.eye(10))[None, None]
    assert fit_temperatures(logits, np.ones(1), labels)[0] == pytest.approx(bound, rel=1e-3)


def test_a_member_that_says_nothing_keeps_temperature_1() -> None:
    assert fit_temperatures(np.zeros((1, 1, 3, 4)), np.ones(1), np.array([0, 1, 2, 0]))[0] == 1


def test_extreme_logits_give_finite_temperatures() -> None:
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((3, 2, 10, 50)) * 2000).astype(np.float16)
    found = fit_temperatures(logits, np.array([0.5, 0.5]), rng.integers(0, 10, 50))
    assert np.isfinite(found).all()
    assert (found >= BOUNDS[0] * 0.999).all()
    assert (found <= BOUNDS[1] * 1.001).all()
