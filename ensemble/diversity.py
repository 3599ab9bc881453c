"""How differently members answer: in which classes, in which mistakes, and in their probabilities.

Letters: M members, N images, C classes. Matrices are `[M, M]` and symmetric, with a member's value with itself on the
diagonal. Pairwise measures of mistakes follow L. Kuncheva & C. Whitaker, Machine Learning 51, 2003, sections 3.1 to
3.4, whose N11 counts the images that both get right, N10 those that the first alone does, and so on.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.metrics import Array, Probs, Right
from zoo.data.split import Labels
from zoo.errors import UsageError

__all__ = [
    "Diversity",
    "Tops",
    "disagreement",
    "diversity",
    "double_fault",
    "error_correlation",
    "mean_over_pairs",
    "mutual_information",
    "pairwise_information",
    "q_statistic",
]

Tops = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Diversity:
    """All pairwise measures of a pool, `[M, M]` each, and the information of the whole.

    Attributes:
        disagreement: see the functions of these names.
        q_statistic: likewise.
        error_correlation: likewise.
        double_fault: likewise.
        pairwise_information: likewise, in nats.
        mutual_information: mean over images, of all members together, in nats.
    """

    disagreement: Array
    q_statistic: Array
    error_correlation: Array
    double_fault: Array
    pairwise_information: Array
    mutual_information: float

    def means(self) -> dict[str, float]:
        """Return each measure's mean over the pairs of different members; `mutual_information` is of all."""
        return {k: v if isinstance(v, float) else mean_over_pairs(v) for k, v in self._fields().items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the matrices as lists of rows, and their means under `means`."""
        rows = {k: v if isinstance(v, float) else v.tolist() for k, v in self._fields().items()}
        return {**rows, "means": self.means()}

    def _fields(self) -> dict[str, Array | float]:
        return asdict(self)


def diversity(probs: Probs, labels: Labels) -> Diversity:
    """Measure a pool.

    Args:
        probs: each member's probabilities, its views merged, `[M, N, C]`; M at least 2.
        labels: `[N]`.

    Raises:
        UsageError: a single member, which differs from nobody.
    """
    if len(probs) < 2:  # noqa: PLR2004
        raise UsageError("diversity needs two or more members")
    tops = probs.argmax(2)
    right = tops == labels
    return Diversity(
        disagreement(tops),
        q_statistic(right),
        error_correlation(right),
        double_fault(right),
        pairwise_information(probs),
        float(mutual_information(probs).mean()),
    )


def mean_over_pairs(matrix: Array) -> float:
    """Mean over the pairs of different members of a symmetric `[M, M]`; `UsageError` if there is no pair."""
    if len(matrix) < 2:  # noqa: PLR2004
        raise UsageError("a mean over pairs needs two or more members")
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def disagreement(answers: Tops | Right) -> Array:
    """Share of images on which two members answer differently, in [0, 1], `[M, M]`.

    Args:
        answers: predicted classes `[M, N]`: how often the classes differ (S. Fort, H. Hu & B. Lakshminarayanan,
            arXiv:1912.02757). Given right or wrong instead, it is D. Skalak's measure (Kuncheva & Whitaker, 3.3).
    """
    same = np.zeros((len(answers), len(answers)))
    for value in np.unique(answers):
        chosen = (answers == value).astype(np.float32)  # counts below 2^24 are exact
        same += chosen @ chosen.T
    return np.asarray(1 - same / answers.shape[1])


def q_statistic(right: Right) -> Array:
    """Yule's Q of being right, in [-1, 1], `[M, M]` (G. Yule, Phil. Trans. A 194, 1900; Kuncheva & Whitaker, 3.1).

    (N11 N00 - N01 N10) / (N11 N00 + N01 N10): 0 for independent members, below 0 for members that err on different
    images. Of a member that is always right or always wrong it is 0 / 0: then, it is 1 with a member that is right on
    just the same images, itself included, and else 0.

    Args:
        right: `[M, N]`.
    """
    n11, n10, n01, n00 = _tables(right)
    agree, differ = n11 * n00, n10 * n01
    return _defined(agree - differ, agree + differ, n10 + n01)


def error_correlation(right: Right) -> Array:
    """Correlation of mistakes, in [-1, 1], `[M, M]`: Pearson's of being right, phi (Kuncheva & Whitaker, 3.2).

    Where it is 0 / 0 it is what `q_statistic` is.

    Args:
        right: `[M, N]`.
    """
    n11, n10, n01, n00 = _tables(right)
    # One root for each factor: the product of four counts of a million images would still fit, of more it would not.
    scale = np.sqrt((n11 + n10) * (n01 + n00)) * np.sqrt((n11 + n01) * (n10 + n00))
    return np.clip(_defined(n11 * n00 - n10 * n01, scale, n10 + n01), -1, 1)


def double_fault(right: Right) -> Array:
    """Share of images that both members get wrong, in [0, 1], `[M, M]` (G. Giacinto & F. Roli, 2001; 3.4 there).

    Args:
        right: `[M, N]`; the diagonal has the error rates.
    """
    return np.asarray(_tables(right)[3] / right.shape[1])


def _tables(right: Right) -> tuple[Array, Array, Array, Array]:
    """Count N11, N10, N01 and N00 for every pair, `[M, M]` each."""
    hits = right.astype(np.float32)  # counts below 2^24 are exact
    both = (hits @ hits.T).astype(np.float64)
    own = both.diagonal()
    return both, own[:, None] - both, own[None, :] - both, right.shape[1] - own[:, None] - own[None, :] + both


def _defined(over: Array, under: Array, apart: Array) -> Array:
    """Divide; where `under` is 0, 1 for members that are never apart and 0 for others."""
    return np.where(under > 0, over / np.where(under > 0, under, 1), apart == 0)


def mutual_information(probs: Probs, weights: npt.ArrayLike | None = None) -> Array:
    """Mutual information of the answer and the member that gives it, `[N]`, in nats.

    The entropy of the members' mean minus the mean of their entropies (N. Houlsby et al., "BALD", arXiv:1112.5745;
    L. Smith & Y. Gal, UAI 2018): what the members' disagreement adds to the uncertainty. 0 if all say the same, and at
    most the entropy of the weights, log M for equal ones. That of the predicted classes alone, without probabilities,
    is left out: labels that all members get right make it large, which is no diversity.

    Args:
        probs: `[M, N, C]`.
        weights: `[M]`, above 0, need not sum to 1; by default equal.
    """
    shares = np.ones(len(probs)) if weights is None else np.asarray(weights, np.float64)
    shares /= shares.sum()
    each = sum(s * _entropy(p) for s, p in zip(shares, probs, strict=True))
    mixed = np.tensordot(shares, np.asarray(probs, np.float64), axes=1)
    return np.asarray(np.maximum(_entropy(mixed) - each, 0))


def pairwise_information(probs: Probs) -> Array:
    """`mutual_information` of each pair, mean over images, in [0, log 2] nats, `[M, M]`.

    It is the Jensen-Shannon divergence of the two (J. Lin, IEEE Trans. Inf. Theory 37, 1991).

    Args:
        probs: `[M, N, C]`.
    """
    members = len(probs)
    out = np.zeros((members, members))
    entropies = [float(_entropy(p).mean()) for p in probs]
    for i in range(members):
        for j in range(i):
            middle = (np.asarray(probs[i], np.float64) + probs[j]) / 2
            out[i, j] = out[j, i] = max(float(_entropy(middle).mean()) - (entropies[i] + entropies[j]) / 2, 0)
    return out


def _entropy(probs: Probs) -> Array:
    """Shannon entropy over the last axis, in nats; 0 log 0 is 0."""
    p = np.asarray(probs, np.float64)
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(-1))
