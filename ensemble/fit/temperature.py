"""Temperatures that minimise the log-loss (C. Guo et al., "On calibration of modern neural networks", ICML 2017).

A member's temperature is fitted to the mean of its views' probabilities, which is what it says in a committee. In
beta = 1/temperature the loss of one view is convex; of a mean over views it need not be, and the point found is the one
that Newton's method reaches from temperature 1, between bounds that close in on a change of the slope's sign.
"""

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from zoo.data.split import Labels

__all__ = ["BOUNDS", "ensemble_temperature", "fit_temperatures", "tempered_losses"]

BOUNDS = (0.05, 20.0)
"""Temperatures that are possible; where the loss falls all the way, as for a member that is always right, the end."""

_ROUNDS = 60
_TOLERANCE = 1e-3  # relative, of a step in 1/temperature: what is left then is about its square
_MANY, _SKIP = 2000, 10  # from so many images on, every tenth tells where to start
_TINY = 1e-12  # as `ensemble.merge`

Floats = npt.NDArray[np.float64]


def fit_temperatures(logits: npt.NDArray[np.floating], view_weights: npt.NDArray[np.float64], labels: Labels) -> Floats:
    """Return the temperature of each member that minimises the log-loss of its mean over views.

    Args:
        logits: `[M, V, C, N]`; computed in float32, or in float64 if they are that.
        view_weights: `[V]`, sum 1.
        labels: `[N]`.

    Returns:
        `[M]`, within `BOUNDS`.
    """
    members, views, classes, images = logits.shape
    kind = np.float64 if logits.dtype == np.float64 else np.float32
    item = 3 * views * classes * images * np.dtype(kind).itemsize

    def fit(some: slice) -> Floats:
        z: npt.NDArray[np.floating] = logits[some].astype(kind)
        z -= z.max(2, keepdims=True)
        beta = np.ones(len(z))
        if images >= _MANY:  # most of the way on a few of them
            beta = _newton(np.ascontiguousarray(z[..., ::_SKIP]), view_weights, labels[::_SKIP], beta)
        return 1 / _newton(z, view_weights, labels, beta)

    return np.concatenate(map_blocks(fit, members, item))


def ensemble_temperature(probs: npt.NDArray[np.floating], labels: Labels) -> float:
    """Return the temperature on the log of merged probabilities `[N, C]` that minimises the log-loss; convex."""
    logs = np.log(np.maximum(probs.astype(np.float64), _TINY))
    return float(fit_temperatures(logs.T[None, None], np.ones(1), labels)[0])


def tempered_losses(probs: npt.NDArray[np.floating], labels: Labels, temperature: float) -> npt.NDArray[np.float64]:
    """Return -log p(label) of each image, `[N]`, after dividing the log of merged probabilities by a temperature.

    Args:
        probs: `[C, N]`.
        labels: `[N]`.
        temperature: of the ensemble.
    """
    logs = np.log(np.maximum(probs.astype(np.float64), _TINY)) / temperature
    logs -= logs.max(0)
    return np.asarray(np.log(np.exp(logs).sum(0)) - logs[labels, np.arange(len(labels))])


def _newton(z: npt.NDArray[np.floating], view_weights: Floats, labels: Labels, beta: Floats) -> Floats:
    """Return 1/temperature `[M]` for logits `[M, V, C, N]` whose largest is 0, starting at `beta`."""
    truth = np.take_along_axis(z, labels[None, None, None, :], 2)[:, :, 0]
    low, high = (np.full(len(z), 1 / bound) for bound in reversed(BOUNDS))
    for _ in range(_ROUNDS):
        slope, bend = _derivatives(z, truth, view_weights, beta)
        low, high = np.where(slope > 0, beta, low), np.where(slope > 0, high, beta)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = beta - slope / bend
        inside = (bend < 0) & (newton >= low) & (newton <= high)
        following = np.where(slope == 0, beta, np.where(inside, newton, np.sqrt(low * high)))
        moved = np.abs(following - beta) / beta
        beta = following
        if moved.max() < _TOLERANCE:
            break
    return beta


def _derivatives(
    z: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], view_weights: Floats, beta: Floats
) -> tuple[Floats, Floats]:
    """Return the first two derivatives by beta of each member's mean log-probability, `[M]` each.

    With p_v the probability of the label under view v, r_v its share in the weighted mean over views, and moments of
    the logits under the softmax: d log p_v = z_y - E[z], d2 log p_v = -Var[z].
    """
    scale = beta.astype(z.dtype)[:, None, None, None]
    powers = np.exp(z * scale)
    total = powers.sum(2)
    powers *= z
    mean = powers.sum(2) / total
    powers *= z
    spread = powers.sum(2) / total - mean**2
    slopes = truth - mean  # [M, V, N]
    shares = np.exp(truth * scale[..., 0]) / total * view_weights.astype(z.dtype)[:, None]
    shares += np.finfo(z.dtype).tiny  # of a label that no view holds possible, the views count alike
    shares /= shares.sum(1, keepdims=True)
    slope = (shares * slopes).sum(1)
    bend = (shares * (slopes**2 - spread)).sum(1) - slope**2
    return slope.mean(1, dtype=np.float64), bend.mean(1, dtype=np.float64)
