"""How far to trust fitted weights: the pull to equal ones, by cross-validation inside the validation split."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.fit.temperature import ensemble_temperature, tempered_losses
from ensemble.fit.weights import optimal_weights
from zoo.data.split import Labels

__all__ = ["Shrunk", "shrunk_weights"]

_FOLDS = 5
_SHARES = (0.0, 0.03, 0.1, 0.3, 1.0, math.inf)  # pseudo-images of the prior for each image that there is
_TINY = 1e-12  # as `ensemble.merge`


@dataclass(frozen=True, eq=False)
class Shrunk:
    """Weights, and how they came about.

    Attributes:
        weights: `[M]`, sum 1.
        pull: pseudo-images of the prior for equal weights; 0 for the optimum itself, infinite for equal weights.
        loss: log-loss in nats on images that neither weights nor ensemble temperature were fitted on; of the choice of
            the members, which is not repeated, it knows nothing. None if there are too few images to divide.
    """

    weights: npt.NDArray[np.float64]
    pull: float
    loss: float | None


def shrunk_weights(probs: npt.NDArray[np.floating], labels: Labels, errors: float = 1.0) -> Shrunk:
    """Return the optimal weights under the strongest pull to equal weights that the data does not speak against.

    For each of six pulls, weights and then the ensemble's temperature are fitted on four fifths of the images and
    scored on the fifth, in turn. The best pull has the lowest loss; the one taken is the strongest whose loss is within
    `errors` standard errors of the best's, image by image (the one-standard-error rule, L. Breiman et al.,
    "Classification and regression trees", 1984). So what the data cannot tell stays equal.

    Args:
        probs: of M members, `[M, C, N]`.
        labels: `[N]`.
        errors: standard errors that are no difference; 0 takes the best pull.
    """
    members, _, images = probs.shape
    label = np.maximum(np.take_along_axis(probs, labels[None, None], 1)[:, 0], _TINY).astype(np.float64)
    if images < 2 * _FOLDS:
        return Shrunk(np.full(members, 1 / members), math.inf, None)
    shares = _SHARES if members > 1 else (math.inf,)
    folds = np.arange(images) % _FOLDS
    losses = np.empty((len(shares), images))
    for fold in range(_FOLDS):
        inside, outside = folds != fold, folds == fold
        inner, outer = (np.ascontiguousarray(probs[..., rows]) for rows in (inside, outside))
        weights = None
        for row in reversed(range(len(shares))):  # from equal weights on, each a start for the next
            weights = optimal_weights(label[:, inside], shares[row] * inside.sum(), weights)
            single = weights.astype(probs.dtype)
            temperature = ensemble_temperature(np.tensordot(single, inner, 1).T, labels[inside])
            losses[row, outside] = tempered_losses(np.tensordot(single, outer, 1), labels[outside], temperature)
    best = int(losses.mean(1).argmin())
    excess = losses - losses[best]
    allowed = excess.mean(1) <= errors * excess.std(1) / math.sqrt(images)
    row = int(np.flatnonzero(allowed)[-1])
    pull = shares[row] * images
    return Shrunk(optimal_weights(label, pull), pull, float(losses[row].mean()))
