"""Weights, held to scipy's SLSQP, to the certificate and to what must not matter."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from ensemble.fit.weights import duality_gap, optimal_weights

Floats = npt.NDArray[np.float64]


def some_probs(members: int, images: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return np.clip(rng.beta(2, 1, images) + rng.normal(0, 0.25, (members, images)), 0.01, 0.99)


def penalised(w: Floats, probs: Floats, pull: float) -> float:
    """What is minimised, straight from the definition."""
    prior = pull / probs.shape[1] * np.log(np.maximum(w, 1e-300)).mean() if pull else 0.0
    return float(-np.log(w @ probs).mean() - prior)


def by_slsqp(probs: Floats, pull: float) -> Floats:
    members = len(probs)
    found = minimize(
        penalised,
        np.full(members, 1 / members),
        args=(probs, pull),
        method="SLSQP",
        bounds=[(0.0 if pull == 0 else 1e-9, 1.0)] * members,
        constraints=LinearConstraint(np.ones((1, members)), 1, 1),
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    return np.asarray(found.x)


@pytest.mark.parametrize(("members", "pull", "seed"), [*product([2, 3, 8], [0.0, 5.0, 300.0], [0, 1])])
def test_the_optimum_is_slsqps(members: int, pull: float, seed: int) -> None:
    probs = some_probs(members, 150, seed)
    found, theirs = optimal_weights(probs, pull), by_slsqp(probs, pull)
    assert penalised(found, probs, pull) <= penalised(theirs, probs, pull) + 1e-9
    np.testing.assert_allclose(found, theirs, atol=2e-4)


@settings(max_examples=40)
@given(
    members=st.integers(1, 12), images=st.integers(2, 60), seed=st.integers(0, 10**6), pull=st.sampled_from([0, 1, 50])
)
def test_weights_are_a_distribution_with_a_certificate(members: int, images: int, seed: int, pull: float) -> None:
    probs = some_probs(members, images, seed)
    w = optimal_weights(probs, pull)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert duality_gap(probs, w, pull) < 1e-6


def test_the_gap_bounds_what_any_other_weights_gain() -> None:
    probs, rng = some_probs(6, 100, 2), np.random.default_rng(0)
    w = rng.dirichlet(np.ones(6))
    gap = duality_gap(probs, w)
    best = penalised(optimal_weights(probs), probs, 0)
    assert penalised(w, probs, 0) - gap <= best <= penalised(w, probs, 0)
    assert gap > 0


def test_the_order_of_members_does_not_matter() -> None:
    probs = some_probs(7, 120, 3)
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_allclose(optimal_weights(probs[order]), optimal_weights(probs)[order], atol=1e-5)


def test_a_member_twice_gives_the_same_mixture() -> None:
    probs = some_probs(5, 120, 4)
    twice = np.concatenate((probs, probs[:2]))
    np.testing.assert_allclose(optimal_weights(twice) @ twice, optimal_weights(probs) @ probs, atol=1e-5)


def test_equal_members_share_equally_under_a_pull() -> None:
    probs = np.repeat(some_probs(1, 50, 5), 4, 0)
    np.testing.assert_allclose(optimal_weights(probs, 10.0), 0.25, atol=1e-6)


def test_pulls_lead_from_the_optimum_to_equal_weights() -> None:
    probs = some_probs(4, 100, 6)
    spread = [float(np.ptp(optimal_weights(probs, pull))) for pull in (0.0, 1.0, 10.0, 100.0, 1e4, math.inf)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 0.1
    assert spread[-1] == 0


def test_a_member_that_is_better_everywhere_gets_all() -> None:
    probs = np.stack((np.full(30, 0.9), np.linspace(0.1, 0.8, 30)))
    np.testing.assert_allclose(optimal_weights(probs), [1, 0], atol=1e-8)


def test_the_start_does_not_matter() -> None:
    probs = some_probs(5, 90, 7)
    start = np.random.default_rng(2).dirichlet(np.ones(5))
    np.testing.assert_allclose(optimal_weights(probs, 3.0, start), optimal_weights(probs, 3.0), atol=1e-5)


def test_tiny_probabilities_do_no_harm() -> None:
    probs = some_probs(4, 80, 8)
    probs[:3, 0] = 1e-12
    w = optimal_weights(probs)
    assert w[3] > 0, "nobody else holds the first image possible"
    assert duality_gap(probs, w) < 1e-6
