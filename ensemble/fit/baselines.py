"""What there is without a choice: each calibrated candidate alone, and all of them with equal weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from ensemble.fit.pool import Pool
from ensemble.fit.temperature import ensemble_temperature, tempered_losses

__all__ = ["Baselines", "baselines"]

_TINY = 1e-12  # as `ensemble.metrics.nll`


@dataclass(frozen=True, eq=False)
class Baselines:
    """Scores on the validation split.

    Attributes:
        accuracy: of each candidate, fractions `[M]`; a tie with another class counts as wrong.
        nll: of each candidate, nats `[M]`.
        all_accuracy: of the mean of all candidates.
        all_nll: likewise, after the temperature that is best for it.
        all_temperature: this temperature.
    """

    accuracy: npt.NDArray[np.float64]
    nll: npt.NDArray[np.float64]
    all_accuracy: float
    all_nll: float
    all_temperature: float

    def best(self, objective: str) -> int:
        """Return the number of the best candidate by `nll` or `accuracy` (ties: by the other, then the first)."""
        order = (self.nll, -self.accuracy) if objective == "accuracy" else (-self.accuracy, self.nll)
        return int(np.lexsort(order)[0])


def baselines(pool: Pool, views: str, temperatures: npt.NDArray[np.float64]) -> Baselines:
    """Score every candidate at its temperature (`[M]`), and all together, under a view set."""
    members, _, classes, images = pool.logits.shape
    rows = np.arange(images)

    def measure(some: slice) -> tuple[npt.NDArray[np.float64], ...]:
        probs = pool.probs(some, views, temperatures[some])
        total = probs.sum(0)
        label = probs[:, pool.labels, rows]
        probs[:, pool.labels, rows] = -1  # what is left are the others
        right = (label > probs.max(1)).mean(1)
        return right, -np.log(np.maximum(label, _TINY)).mean(1, dtype=np.float64), total

    parts = map_blocks(measure, members, 3 * len(pool.views) * classes * images * 4)
    mean = np.add.reduce([total for _, _, total in parts], dtype=np.float64) / members
    temperature = ensemble_temperature(mean.T, pool.labels)
    return Baselines(
        accuracy=np.concatenate([right for right, _, _ in parts]),
        nll=np.concatenate([loss for _, loss, _ in parts]),
        all_accuracy=float((mean.argmax(0) == pool.labels).mean()),
        all_nll=float(tempered_losses(mean, pool.labels, temperature).mean()),
        all_temperature=temperature,
    )
