"""How right a network's logits are, and whether that is better than guessing."""

import numpy as np
import numpy.typing as npt

from zoo.predictions import SplitPredictions

__all__ = ["accuracies", "near_chance"]

_SHARE = 0.25


def accuracies(stored: SplitPredictions) -> dict[str, float]:
    """Return top-1 accuracy by view set: `none`, and `flip` if there are logits of mirrored images as well.

    The latter is that of the mean probability of the image and its mirror image. Fractions, to five digits.
    """
    probs = {view: _softmax(logits.astype(np.float64)) for view, logits in stored.views.items()}
    merged = {"none": probs["none"]}
    if "flip" in probs:
        merged["flip"] = (probs["none"] + probs["flip"]) / 2
    return {view: round(float((p.argmax(1) == stored.labels).mean()), 5) for view, p in merged.items()}


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    total: npt.NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return total


def near_chance(accuracy: float, classes: int) -> bool:
    """Say whether an accuracy is less than a quarter of the way from guessing to being right always.

    Nobody publishes such a network: one that is imported wrongly, or given other mean and std, ends up there.

    Args:
        accuracy: a fraction.
        classes: number of classes C, taken to be equally frequent.
    """
    chance = 1 / classes
    return accuracy < chance + _SHARE * (1 - chance)
