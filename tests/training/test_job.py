"""What a job derives from its data."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest

from tests.training.conftest import fastnet_recipe, noisy_recipe, toy_job, toy_split
from training.job import Job
from training.recipe import Schedule
from zoo.data import Split
from zoo.errors import UsageError


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


@pytest.mark.parametrize(
    ("images", "epochs", "batch", "steps"), [(34, 2, 8, 8), (32, 3, 8, 12), (7, 5, 8, 0), (9, 1, 9, 1)]
)
def test_steps_are_the_batches_that_are_full(images: int, epochs: int, batch: int, steps: int) -> None:
    assert toy_job(fastnet_recipe(epochs=epochs, batch_size=batch), images=images).steps == steps


def test_snapshots_are_taken_where_cycles_end_but_the_last() -> None:
    def ends(schedule: Schedule, **changes: bool) -> list[int]:
        return toy_job(noisy_recipe(epochs=25, schedule=schedule, **changes)).snapshot_steps

    assert ends(Schedule("restarts", cycles=5)) == []
    assert ends(Schedule("restarts", cycles=5), snapshots=True) == [20, 40, 60, 80]  # of 100
    assert ends(Schedule("restarts", cycles=2, warmup=0.2), snapshots=True) == [60]
    assert ends(Schedule("restarts", cycles=3, growth=2.0), snapshots=True) == [14, 43]  # 1/7 and 3/7


def test_too_few_images_are_refused() -> None:
    job = toy_job(fastnet_recipe(batch_size=35))
    with pytest.raises(
        UsageError,
        match=r"^recipe 'toy': 34 training images do not fill a batch of 35: lower it",
    ):
        job.check()
    with pytest.raises(UsageError, match=r"^34 training images are too few to hold any out for validation$"):
        replace(toy_job(fastnet_recipe()), val=job.val.subset(slice(0))).check()
    toy_job(fastnet_recipe(batch_size=34)).check()


@pytest.mark.parametrize("cycles", [8, 9])
def test_more_cycles_than_steps_are_refused(cycles: int) -> None:
    recipe = noisy_recipe(schedule=Schedule("restarts", cycles=cycles), snapshots=True)
    if cycles == 8:
        toy_job(recipe).check()
        return
    said = "recipe 'noisy': 8 steps are too few for 9 cycles with a snapshot each: lower schedule.cycles"
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        toy_job(recipe).check()


def test_snapshots_by_epoch_are_taken_where_the_rate_restarts() -> None:
    schedule = Schedule("restarts", "epoch", cycles=2)
    assert toy_job(noisy_recipe(epochs=5, schedule=schedule, snapshots=True)).snapshot_steps == [12]  # of 20, not 10


def test_an_expression_without_a_value_at_one_step_is_refused_up_front() -> None:
    job = toy_job(noisy_recipe(epochs=25, schedule=Schedule("lambda", factor="1 / (73 - step)")))
    with pytest.raises(UsageError, match="has no value"):
        job.check()
