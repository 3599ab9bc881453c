"""Weights that minimise the log-loss of a mixture: a convex problem, solved to a certificate.

Maximise f(w) = mean_n log sum_m w_m p_mn over the simplex, where p_mn is the probability that member m gives to the
label of image n. With a Dirichlet prior of `pull` pseudo-images, spread evenly over the M members, it is the penalised

    F(w) = f(w) + k/M sum_m log w_m,   k = pull / N,

which draws the weights to 1/M: not at all at pull 0, wholly at pull infinity. The method is sequential quadratic
programming after Y. Kim et al., "A fast algorithm for maximum likelihood estimation of mixture proportions using
sequential quadratic programming", J. Comput. Graph. Stat. 29, 2020 (arXiv:1806.01412): as F's derivative along w is
1 + k at the optimum, the constraint sum w = 1 becomes a linear term, and each step is a non-negative least-squares
problem.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["duality_gap", "optimal_weights"]

Floats = npt.NDArray[np.float64]
_ROUNDS = 100
_GAP = 1e-9  # nats
_HALVINGS = 30  # of a step
_FLAT = 1e-10  # ridge, relative to the largest curvature: of members that are the same, every division is as good


def duality_gap(probs: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], pull: float = 0.0) -> float:
    """Return by how many nats at most F(weights) is below the optimum (Frank-Wolfe's gap; 0 only at the optimum).

    Args:
        probs: of the labels, `[M, N]`, above 0. It may have more rows than there are weights that are not 0: then
            this bounds what any weighting of all of them could gain.
        weights: `[M]`, sum 1; all above 0 if there is a pull.
        pull: pseudo-images of the prior, finite.
    """
    gradient = _gradient(probs, weights, pull / probs.shape[1])
    return float(gradient.max() - gradient @ weights)


def optimal_weights(probs: npt.NDArray[np.floating], pull: float = 0.0, start: Floats | None = None) -> Floats:
    """Return the weights `[M]` (sum 1) that minimise the penalised log-loss of the mean, to within 1e-9 nats.

    Args:
        probs: of the labels, `[M, N]`, above 0.
        pull: pseudo-images of the prior for equal weights; infinite for equal weights.
        start: weights to begin at, all above 0.
    """
    members, images = probs.shape
    equal = np.full(members, 1 / members)
    if members == 1 or math.isinf(pull):
        return equal
    p, k = np.asarray(probs, np.float64), pull / images
    w = equal if start is None else start
    value = _value(p, w, k)
    for _ in range(_ROUNDS):
        if duality_gap(p, w, pull) < _GAP:
            break
        target = _step(p, w, k)
        for halvings in range(_HALVINGS):
            trial = w + 2.0**-halvings * (target - w)
            trial /= trial.sum()
            found = _value(p, trial, k)
            if found > value:
                w, value = trial, found
                break
        else:  # nothing is better but for rounding
            break
    return w


def _value(p: Floats, w: Floats, k: float) -> float:
    """Return F(w); minus infinity where it is not defined."""
    if w.min() < 0 or (k > 0 and w.min() <= 0):
        return -math.inf
    prior = k * float(np.log(w).mean()) if k else 0.0
    return float(np.log(w @ p).mean()) + prior


def _gradient(p: npt.NDArray[np.floating], w: npt.NDArray[np.floating], k: float) -> Floats:
    gradient: Floats = p @ (1 / (w @ p)) / p.shape[1]
    return gradient + k / (len(w) * w) if k else gradient


def _step(p: Floats, w: Floats, k: float) -> Floats:
    """Return the minimum over x >= 0 of the quadratic model of -F(x) + (1 + k) sum x around w."""
    from scipy.linalg import cholesky, solve_triangular  # noqa: PLC0415  # scipy is slow to import
    from scipy.optimize import nnls  # noqa: PLC0415

    scaled = p / (w @ p)
    bend = scaled @ scaled.T / p.shape[1]
    slope = scaled.mean(1) - (1 + k)
    if k:
        bend += np.diag(k / (len(w) * w**2))
        slope = slope + k / (len(w) * w)
    bend += _FLAT * bend.diagonal().max() * np.eye(len(w))
    lower = cholesky(bend, lower=True)
    # min x'Bx/2 - c'x with c = slope + B w is min |L'x - L^-1 c|.
    right = solve_triangular(lower, slope + bend @ w, lower=True)
    return np.asarray(nnls(lower.T, right)[0], np.float64)
