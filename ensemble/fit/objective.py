"""What a selection minimises, as sums over members: one row of numbers an image, or one a class.

For the log-loss of a mean of probabilities, the label's own probability is all that matters: `[M, 1, N]` instead of
`[M, C, N]`. Accuracy needs the label's lead over each other class as well, and those too are sums over members.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from ensemble.fit.pool import Pool

__all__ = ["Features", "Objective", "features", "keys"]

Objective = Literal["nll", "accuracy"]
Features = npt.NDArray[np.float32]
"""`[M, D, N]`: row 0 is the label's probability, the others (if any) are its leads over the other classes."""

_TINY = 1e-12  # as `ensemble.metrics.nll`


def features(pool: Pool, views: str, temperatures: npt.NDArray[np.float64], objective: Objective) -> Features:
    """Return what the candidates contribute to an objective.

    Args:
        pool: of M candidates.
        views: name of the view set; a member's probabilities are the weighted mean over its views.
        temperatures: of the candidates, `[M]`.
        objective: `nll` (D = 1) or `accuracy` (D = C).

    Returns:
        float32 `[M, D, N]`.
    """
    members, _, classes, images = pool.logits.shape
    rows = 1 if objective == "nll" else classes
    out = np.empty((members, rows, images), np.float32)
    others = (pool.labels + np.arange(1, classes)[:, None]) % classes  # [C - 1, N]

    def fill(some: slice) -> None:
        probs = pool.probs(some, views, temperatures[some])
        label = np.take_along_axis(probs, pool.labels[None, None], 1)
        out[some, :1] = np.maximum(label, _TINY)
        if objective == "accuracy":
            out[some, 1:] = label - np.take_along_axis(probs, others[None], 1)

    map_blocks(fill, members, 3 * len(pool.views) * classes * images * 4)
    return out


def keys(sums: Features, size: int | npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return what is minimised for committees with these sums: smaller is better.

    That is the log-loss in nats; or, if leads are there, the number of wrong answers, and among equal numbers the
    log-loss l, as the fraction l / (1 + l). A tie between the label and another class counts as wrong.

    Args:
        sums: over each committee's members with their multiplicity, `[K, D, N]`.
        size: number of members summed, one for all or `[K]`.

    Returns:
        `[K]`.
    """
    loss = np.log(np.asarray(size, np.float64)) - np.log(sums[:, 0]).mean(1, dtype=np.float64)
    if sums.shape[1] == 1:
        return np.asarray(loss)
    wrong = (np.minimum.reduce(sums[:, 1:], 1) <= 0).sum(1)
    return np.asarray(wrong + loss / (1 + loss))
