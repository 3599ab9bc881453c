"""Metrics of predicted distributions: accuracy, NLL, Brier score, ECE, and Wilson's interval.

In numpy, so that scoring stored predictions needs no torch; tests hold them to torchmetrics and plain formulas.
"""

import math

import numpy as np
import numpy.typing as npt

from zoo.data.split import Labels

__all__ = ["brier", "ece", "nll", "wilson_interval"]

_TINY = 1e-12
_Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def nll(probs: npt.NDArray[np.floating], labels: Labels) -> float:
    """Negative log-likelihood: the mean of -log p(label), in nats; probabilities below 1e-12 count as 1e-12.

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
    """
    chosen = probs[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, _TINY)).mean())


def brier(probs: npt.NDArray[np.floating], labels: Labels) -> float:
    """Brier score, summed over classes: in [0, 2] (G. Brier, Monthly Weather Review 78, 1950).

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
    """
    onehot = np.eye(probs.shape[1])[labels]
    return float(((probs - onehot) ** 2).sum(1).mean())


def ece(probs: npt.NDArray[np.floating], labels: Labels, top: npt.NDArray[np.intp], bins: int = 15) -> float:
    """Expected calibration error over equal bins of the top class's probability (Guo et al., arXiv:1706.04599).

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
        top: the predicted classes `[N]`; not always the argmax, since votes tie.
        bins: number of equal intervals of (0, 1], closed on the right.

    Returns:
        The mean over images of |accuracy - confidence| of their bin, in [0, 1].
    """
    confidence = probs[np.arange(len(labels)), top]
    right = top == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of an accuracy (E. Wilson, JASA 22, 1927).

    Args:
        right: correct answers, `0 .. images`.
        images: number of answers, above 0.

    Returns:
        The interval's ends, in [0, 1].
    """
    share, z2 = right / images, _Z95**2
    centre = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = _Z95 / (1 + z2 / images) * math.sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    return max(0.0, centre - half), min(1.0, centre + half)
