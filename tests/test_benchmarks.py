"""The benchmarks run: each contender on a handful of images. What they measure is printed by themselves."""

import pytest
import torch

from benchmarks.training import CONTENDERS, make_job, run_one


@pytest.mark.parametrize("name", [name for name in CONTENDERS if not name.endswith("2")])  # without worker processes
def test_each_training_contender_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training.keep_freed_memory", lambda: True)
    job = make_job(steps=1, batch_size=20)
    assert (len(job.part), job.steps) == (20, 2)
    assert run_one(name, job, torch.device("cpu"), 1) > 0
