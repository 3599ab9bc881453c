"""The benchmarks run: each contender on a handful of images. What they measure is printed by themselves."""

import pytest
import torch

from benchmarks.airbench import OVERRIDES, run_once
from benchmarks.airbench import make_job as airbench_job
from benchmarks.training import CONTENDERS, make_job, run_one
from tests.conftest import random_split
from training.recipe_file import load_recipe


@pytest.mark.parametrize("name", [name for name in CONTENDERS if not name.endswith("2")])  # without worker processes
def test_each_training_contender_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training.keep_freed_memory", lambda: True)
    job = make_job(steps=1, batch_size=20)
    assert (len(job.part), job.steps) == (20, 2)
    assert run_one(name, job, torch.device("cpu"), 1) > 0


@pytest.mark.parametrize(
    ("name", "rates"), [("fastnet", [106, 1340, 0.24, 106]), ("fastnet96", [75.13, 1.1739, 3799, 1.1739])]
)
def test_the_airbench_side_of_ours_trains_and_scores(name: str, rates: list[float]) -> None:
    images = random_split(20, seed=1)
    recipe = load_recipe(name, (*OVERRIDES[name], "epochs=1", "batch_size=10", "whitening.images=20"))
    assert [group.optimizer.lr for group in recipe.all_groups()] == rates
    seconds, accuracy = run_once(airbench_job(recipe, images, 1), random_split(20, seed=2), torch.device("cpu"))
    assert seconds > 0
    assert 0 <= accuracy <= 1
