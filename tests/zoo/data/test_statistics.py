"""Mean and standard deviation per channel, against numpy in double precision."""

import numpy as np
import pytest

from tests.conftest import CLASSES, random_split
from zoo.data import MEAN_STD, Split, load_split, mean_std


def split_of(images: np.ndarray) -> Split:
    return Split(images, np.arange(len(images)) % 10, CLASSES)


def test_cifars_are_the_usual_constants() -> None:
    split = random_split(10)
    assert mean_std("cifar10", split) is MEAN_STD["cifar10"]
    assert mean_std("cifar100", split) is MEAN_STD["cifar100"]
    for mean, std in MEAN_STD.values():
        assert all(0.4 < m < 0.55 for m in mean)
        assert all(0.2 < s < 0.3 for s in std)


@pytest.mark.parametrize("images", [1, 255, 256, 600])
def test_against_numpy(images: int) -> None:
    rng = np.random.default_rng(images)
    top = np.array([256, 100, 30])  # each channel has numbers of its own
    pixels = rng.integers(0, top, (images, 4, 6, 3)).astype(np.uint8)
    mean, std = mean_std("photos", split_of(pixels))
    flat = pixels.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(mean, flat.mean(0), atol=5.1e-5)
    np.testing.assert_allclose(std, flat.std(0), atol=5.1e-5)
    assert all(value == round(value, 4) for value in (*mean, *std))
    assert type(mean[0]) is type(std[0]) is float


def test_no_order_of_the_images_changes_them() -> None:
    split = random_split(300, size=4)
    turned = split.subset(np.random.default_rng(0).permutation(300))
    assert mean_std("photos", split) == mean_std("photos", turned)


def test_black_and_white() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = 255
    assert mean_std("photos", split_of(pixels)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_channel_that_never_varies_has_a_deviation_to_divide_by() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    pixels[..., 2] = 51
    mean, std = mean_std("photos", split_of(pixels))
    assert mean[2] == 0.2
    assert std[2] == pytest.approx(1 / 255, abs=1e-4)
    assert std[0] > 0.2


def test_of_the_shipped_images() -> None:
    mean, std = mean_std("photos", load_split("cifar10", "test"))
    np.testing.assert_allclose(mean, MEAN_STD["cifar10"][0], atol=0.005)
    np.testing.assert_allclose(std, MEAN_STD["cifar10"][1], atol=0.005)
