"""Metrics of predicted distributions: accuracy, NLL, Brier score, calibration, risk against coverage, classes.

In numpy, so that scoring stored predictions needs no torch; tests hold them to scikit-learn, torchmetrics and plain
loops. Shapes: N images, C classes. The predicted classes `top` `[N]` are an argument of their own, since a vote's are
not always the argmax of its shares; a vote has no NLL.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.split import Labels

__all__ = [
    "Array",
    "ClassScores",
    "Probs",
    "Right",
    "Top",
    "accuracy",
    "adaptive_ece",
    "aurc",
    "brier",
    "brier_each",
    "calibration_gaps",
    "class_scores",
    "confidences",
    "confusion",
    "ece",
    "measures",
    "nll",
    "nll_each",
    "selective_risk",
    "wilson_interval",
]

Array = npt.NDArray[np.float64]
Probs = npt.NDArray[np.floating]
Right = npt.NDArray[np.bool_]
Top = npt.NDArray[np.intp]

_TINY = 1e-12
_Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, eq=False)
class ClassScores:
    """How each class fares, `[C]` each; a ratio without a denominator is 0.

    Attributes:
        precision: of the images predicted as the class, the share that are of it.
        recall: of the images of the class, the share predicted as it.
        f1: harmonic mean of the two.
        support: images of the class.
    """

    precision: Array
    recall: Array
    f1: Array
    support: npt.NDArray[np.int64]


def accuracy(top: Top, labels: Labels) -> float:
    """Share of right answers, in [0, 1]; `top` and `labels` are `[N]`."""
    return float((top == labels).mean())


def nll(probs: Probs, labels: Labels) -> float:
    """Negative log-likelihood: the mean of -log p(label), in nats; probabilities below 1e-12 count as 1e-12.

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
    """
    return float(nll_each(probs, labels).mean())


def nll_each(probs: Probs, labels: Labels) -> Array:
    """Each image's part `[N]` in `nll`, which is their mean."""
    chosen = probs[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(np.maximum(chosen, _TINY)))


def brier(probs: Probs, labels: Labels) -> float:
    """Brier score, summed over classes: in [0, 2] (G. Brier, Monthly Weather Review 78, 1950).

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
    """
    return float(brier_each(probs, labels).mean())


def brier_each(probs: Probs, labels: Labels) -> Array:
    """Each image's part `[N]` in `brier`, which is their mean."""
    onehot = np.eye(probs.shape[1])[labels]
    return np.asarray(((probs - onehot) ** 2).sum(1))


def confidences(probs: Probs, top: Top) -> Array:
    """Probability `[N]` of the predicted class of each image."""
    return np.asarray(probs[np.arange(len(top)), top], np.float64)


def ece(probs: Probs, labels: Labels, top: Top, bins: int = 15) -> float:
    """Expected calibration error over equal bins of the top class's probability (Guo et al., arXiv:1706.04599).

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
        top: the predicted classes `[N]`; not always the argmax, since votes tie.
        bins: number of equal intervals of (0, 1], closed on the right.

    Returns:
        The mean over images of |accuracy - confidence| of their bin, in [0, 1].
    """
    which, gaps = calibration_gaps(probs, labels, top, bins)
    return float(np.abs(np.bincount(which, weights=gaps, minlength=bins)).sum() / len(labels))


def calibration_gaps(probs: Probs, labels: Labels, top: Top, bins: int = 15) -> tuple[npt.NDArray[np.intp], Array]:
    """Return each image's bin `[N]`, in `0 .. bins - 1`, and right - confidence `[N]`; arguments as in `ece`."""
    confidence = confidences(probs, top)
    which = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    return which, (top == labels) - confidence


def adaptive_ece(probs: Probs, labels: Labels, top: Top, bins: int = 15) -> float:
    """Calibration error over bins that hold equally many images (K. Nguyen & B. O'Connor, EMNLP 2015).

    Networks are so sure that most images share the last of the equal intervals; equal mass tells them apart. Images
    of the same confidence are never separated (a vote has few values), so that no order of the images matters: they
    are all in the bin of the first of them.

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
        top: the predicted classes `[N]`.
        bins: how many; image i of N in the order of confidence is in bin floor(i * bins / N).

    Returns:
        The mean over images of |accuracy - confidence| of their bin, in [0, 1].
    """
    confidence = confidences(probs, top)
    first = np.searchsorted(np.sort(confidence), confidence, side="left")
    gaps = np.bincount(first * bins // len(labels), weights=(top == labels) - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def aurc(probs: Probs, labels: Labels, top: Top) -> float:
    """Area under the risk-coverage curve (Y. Geifman, G. Uziel & R. El-Yaniv, ICLR 2019, arXiv:1805.08206).

    Their empirical estimator: the mean, over the images as thresholds, of the error rate among the images that are at
    least as confident. It is 0 if nothing is wrong, and small if what is wrong is doubted.

    Args:
        probs: `[N, C]`.
        labels: `[N]`.
        top: the predicted classes `[N]`, whose probability is the confidence.

    Returns:
        The area, in [0, 1].
    """
    return float(selective_risk(confidences(probs, top), top != labels)[1].mean())


def selective_risk(confidence: Array, wrong: Right) -> tuple[Array, Array]:
    """Return the risk-coverage curve.

    Args:
        confidence: `[N]`.
        wrong: `[N]`.

    Returns:
        At each image as the threshold, the most confident first: the share of images at least as confident, and the
        error rate among them, `[N]` each. Images of the same confidence are one step of the curve.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = -confidence[order]
    last = np.searchsorted(ranked, ranked, side="right")
    return last / len(last), np.cumsum(wrong[order])[last - 1] / last


def confusion(top: Top, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix `[C, C]`: images by their label (row) and predicted class (column)."""
    return np.bincount(labels * classes + top, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def class_scores(matrix: npt.NDArray[np.int64]) -> ClassScores:
    """Return the scores of each class from a confusion matrix `[C, C]`."""
    hits, support, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return ClassScores(
        precision=hits / np.maximum(predicted, 1),
        recall=hits / np.maximum(support, 1),
        f1=2 * hits / np.maximum(support + predicted, 1),
        support=support,
    )


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


def measures(probs: Probs, top: Top, labels: Labels, *, likelihood: bool = True) -> dict[str, Any]:
    """Return the metrics of answers to N images, as `ensemble eval --json` names them.

    Args:
        probs: `[N, C]`.
        top: classes, `[N]`.
        labels: `[N]`.
        likelihood: whether `probs` are probabilities; the shares of a vote have no NLL.
    """
    right = int((top == labels).sum())
    return {
        "accuracy": right / len(labels),
        "accuracy_ci95": list(wilson_interval(right, len(labels))),
        "nll": nll(probs, labels) if likelihood else None,
        "brier": brier(probs, labels),
        "ece": ece(probs, labels, top),
    }
