"""Mean and standard deviation per channel, which every network's input is normalised by."""

import numpy as np

from zoo.data.split import Split

__all__ = ["MEAN_STD", "Stats", "mean_std"]

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]

MEAN_STD: dict[str, Stats] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Per-channel mean and standard deviation of the training images, in units of 0..1."""

_DIGITS = 4
_LEAST_STD = 0.004
_CHUNK = 256


def mean_std(dataset: str, part: Split) -> Stats:
    """Return what the images of a dataset are normalised by: mean and standard deviation per channel.

    CIFAR has its usual constants, which are of all 50,000 training images. Others' are those of the pixels of `part`,
    computed exactly from counts of the 256 values, so that no order of the images changes them. A channel that hardly
    varies gets a deviation of one step of 255, not to blow up what other pictures have there.

    Args:
        dataset: name of the data.
        part: the images to train on, at least one.

    Returns:
        (mean, std), each with three numbers in units of 0..1, rounded to four digits.
    """
    if dataset in MEAN_STD:
        return MEAN_STD[dataset]
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(part), _CHUNK):  # bincount makes integers of 8 bytes of its input
        chunk = part.images[start : start + _CHUNK]
        counts += [np.bincount(chunk[..., channel].ravel(), minlength=256) for channel in range(3)]
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    means = share @ values
    stds = np.sqrt((share * (values - means[:, None]) ** 2).sum(1))
    mean = [round(float(m), _DIGITS) for m in means]
    std = [max(round(float(s), _DIGITS), _LEAST_STD) for s in stds]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
