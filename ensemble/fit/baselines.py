"""What there is without a choice: the best calibrated candidate alone, and all of them with equal weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.fit.blocks import map_blocks
from ensemble.fit.objective import Objective
from ensemble.fit.pool import Pool
from ensemble.fit.temperature import ensemble_temperature, tempered_losses

__all__ = ["Baseline", "baselines"]

_TINY = 1e-12  # as `ensemble.metrics.nll`


@dataclass(frozen=True)
class Baseline:
    """Scores on the validation split.

    Attributes:
        accuracy: a fraction.
        nll: in nats.
        temperature: that is best for it.
    """

    accuracy: float
    nll: float
    temperature: float


def baselines(
    pool: Pool, views: str, temperatures: npt.NDArray[np.float64], objective: Objective
) -> tuple[int, Baseline, Baseline]:
    """Return the number of the best candidate, its scores, and those of the mean of all candidates.

    Args:
        pool: of M candidates.
        views: name of the view set.
        temperatures: of the candidates, `[M]`.
        objective: by which the best is meant; ties go to the other measure, then to the first.
    """
    members, _, classes, images = pool.logits.shape
    rows = np.arange(images)

    def measure(some: slice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        probs = pool.probs(some, views, temperatures[some])
        label = np.maximum(probs[:, pool.labels, rows], _TINY)
        wrong = (probs.argmax(1) != pool.labels).mean(1) if objective == "accuracy" else np.zeros(len(probs))
        return wrong, -np.log(label).mean(1, dtype=np.float64), probs.sum(0)

    parts = map_blocks(measure, members, 3 * len(pool.views) * classes * images * 4)
    wrong, loss = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
    best = int(np.lexsort((loss, wrong))[0])
    alone = pool.probs(slice(best, best + 1), views, temperatures[best : best + 1])[0]
    right = float((alone.argmax(0) == pool.labels).mean())
    mean = np.add.reduce([part[2] for part in parts], dtype=np.float64) / members
    temperature = ensemble_temperature(mean.T, pool.labels)
    return (
        best,
        Baseline(right, float(loss[best]), float(temperatures[best])),
        Baseline(
            float((mean.argmax(0) == pool.labels).mean()),
            float(tempered_losses(mean, pool.labels, temperature).mean()),
            temperature,
        ),
    )
