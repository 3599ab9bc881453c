"""What a job derives from its data."""

from dataclasses import FrozenInstanceError

import pytest

from tests.training.conftest import fastnet_recipe, toy_split
from training.job import Job
from zoo.data import Split


def test_input_size_is_height_and_width() -> None:
    square = toy_split(6, size=9)
    tall = Split(square.images[:, :, :5], square.labels, square.classes)
    job = Job(fastnet_recipe(), 3, "colours", tall, square, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert job.input_size == (9, 5)
    assert job.stats == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_job_cannot_change_under_a_run() -> None:
    job = Job(fastnet_recipe(), 3, "colours", toy_split(6), toy_split(3), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(FrozenInstanceError):
        job.seed = 4  # type: ignore[misc]  # that is the test
