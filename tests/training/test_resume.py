"""Runs that were interrupted, stopped or killed against runs that were not: bit for bit the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.conftest import CPU, fastnet_recipe, fit, noisy_recipe, rich_recipe, toy_job, toy_split
from tests.zoo.conftest import write_mosaic
from training.answer_store import AnswerStore
from training.augment import Answers
from training.distill import Teacher
from training.job import Job
from training.loop import Trained, train
from training.recipe import Augment, Average, Distill, Recipe, Sam, Schedule
from training.run import RunFolder
from zoo.data import MEAN_STD, load_training
from zoo.errors import InterruptedRun, MenagerieError

ROOT = Path(__file__).parents[2]
STEPS = 8  # of `toy_job`: two epochs of four

RECIPES: dict[str, Recipe] = {
    "fastnet": fastnet_recipe(),
    "noisy": noisy_recipe(),
    "rich": rich_recipe(),
    "sam": noisy_recipe(sam=Sam(0.5, adaptive=True), precision="bf16"),
    "swa": noisy_recipe(average=Average("swa", every=2, start=0.25)),
    "swag": noisy_recipe(average=Average("swag", every=2, start=0.25, rank=2, samples=2)),
    "lookahead": noisy_recipe(average=Average("lookahead", every=3, decay=0.9, ramp=1.0)),
    "snapshots": noisy_recipe(schedule=Schedule("restarts", cycles=3), snapshots=True),
    "distilled": noisy_recipe(distill=Distill("self", 3.0, 0.2), schedule=Schedule("plateau", patience=0)),
    "fp16": noisy_recipe(precision="fp16", clip_norm=0.5),
}
_COVERED = {"swa", "distilled"}  # by swag, and by rich
every_recipe = pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, id=name, marks=[pytest.mark.slow] if name in _COVERED else []) for name, r in RECIPES.items()],
)


class Stop(Exception):  # noqa: N818  # not an error
    """Interrupts a run."""


def train_some(
    job: Job, folder: Path, steps: int, save_every: float = 0.0, teacher: Teacher | Answers | None = None
) -> None:
    """Train at most `steps` steps, and stop as abruptly as an exception can."""
    done = 0

    def progress(_row: object) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Stop

    with pytest.raises(Stop):
        train(job, RunFolder(folder, job), device=CPU, progress=progress, save_every=save_every, teacher=teacher)


def weights(net: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


def metrics(trained: Trained) -> list[dict[str, float]]:
    """All columns but the seconds, which nobody can repeat."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trained.rows]


def assert_same(one: Trained, other: Trained) -> None:
    assert weights(one.net) == weights(other.net)
    assert one.others.keys() == other.others.keys()
    for suffix, net in one.others.items():
        assert weights(net) == weights(other.others[suffix])
    assert metrics(one) == metrics(other)


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe])
def test_same_seed_same_weights(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = fit(toy_job(recipe(), seed=3), tmp_path / "one")
    torch.manual_seed(2)
    assert_same(one, fit(toy_job(recipe(), seed=3), tmp_path / "two"))
    other = fit(toy_job(recipe(), seed=4), tmp_path / "other")
    moved = {n for n, p in other.net.named_parameters() if not torch.equal(p, one.net.get_parameter(n))}
    assert moved == {n for n, p in other.net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe, rich_recipe])
def test_interrupted_at_any_step_the_run_ends_the_same(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    job = toy_job(recipe())
    whole = fit(job, tmp_path / "whole", save_every=3600)
    for steps in (3, 6):  # state is saved at the end of each epoch
        folder = tmp_path / f"interrupted-{steps}"
        train_some(job, folder, steps, save_every=3600)
        torch.manual_seed(steps)
        assert RunFolder(folder, job).step() == steps // 4 * 4
        assert_same(fit(job, folder, save_every=3600), whole)


@every_recipe
def test_interrupted_after_every_step_the_run_ends_the_same(recipe: Recipe, tmp_path: Path) -> None:
    job = toy_job(recipe)
    for step in range(STEPS):
        torch.manual_seed(step)
        assert RunFolder(tmp_path / "run", job).step() == step
        train_some(job, tmp_path / "run", 1)
    assert_same(fit(job, tmp_path / "run"), fit(job, tmp_path / "whole"))


def given_teacher(job: Job, folder: Path, *, stored: bool) -> Teacher | Answers:
    """Return a small network, or its answers to two crops of each image and their mirror images."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 26 * 26, 3)).eval()
    if not stored:
        return net
    store = AnswerStore(folder, job, {"name": "small"}, both_sides=True)
    store.fill(net, range(2), device=CPU)
    return store.load(2, CPU)


@pytest.mark.parametrize("stored", [False, True])
def test_with_a_given_teacher_the_run_ends_the_same(tmp_path: Path, stored: bool) -> None:
    job = toy_job(fastnet_recipe(distill=Distill("given", 2.0, 0.1), label_smoothing=0.0, accumulate=2))
    for step in range(STEPS):
        torch.manual_seed(step)
        train_some(job, tmp_path / "run", 1, teacher=given_teacher(job, tmp_path / "answers", stored=stored))
    taught = given_teacher(job, tmp_path / "again", stored=stored)
    whole = fit(job, tmp_path / "whole", teacher=taught)
    assert_same(fit(job, tmp_path / "run", teacher=taught), whole)
    mute = fit(toy_job(fastnet_recipe(label_smoothing=0.0, accumulate=2)), tmp_path / "mute")
    assert weights(whole.net) != weights(mute.net)


def test_stored_answers_teach_as_their_teacher_does(tmp_path: Path) -> None:
    """With one crop and no flips both students see the same; what differs is that answers are stored in fp16."""
    recipe = fastnet_recipe(distill=Distill("given", 2.0, 0.0), augment=Augment(), precision="fp32")
    job = toy_job(recipe)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 26 * 26, 3)).eval()
    store = AnswerStore(tmp_path, job, {}, both_sides=True)
    store.fill(net, range(1), device=CPU)
    asked, stored = fit(job, tmp_path / "asked", teacher=net), fit(job, tmp_path / "st", teacher=store.load(1, CPU))
    for key in ("train_loss", "val_loss"):
        assert [row[key] for row in asked.rows] == pytest.approx([row[key] for row in stored.rows], rel=0.02)


@pytest.mark.parametrize("steps", [1, 4, 7, 8])
def test_asked_to_stop_it_finishes_the_step_and_saves(steps: int, tmp_path: Path) -> None:
    done: list[dict[str, float] | None] = []
    job = toy_job(rich_recipe())

    def run_on() -> Trained:
        run = RunFolder(tmp_path / "run", job)
        stop = lambda: len(done) + 1 == steps  # noqa: E731  # asked before `progress` is told
        return train(job, run, device=CPU, progress=done.append, save_every=3600, stop=stop)

    if steps < STEPS:
        with pytest.raises(InterruptedRun, match=rf"^stopped after step {steps} of {STEPS}, state saved$"):
            run_on()
        assert RunFolder(tmp_path / "run", job).step() == len(done) == steps
    else:  # there is nothing left to stop
        run_on()
    assert_same(fit(job, tmp_path / "run"), fit(job, tmp_path / "whole"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    heard: list[dict[str, float] | None] = []
    job = toy_job(RECIPES["swag"])
    whole = fit(job, tmp_path)
    again = train(job, RunFolder(tmp_path, job), device=CPU, progress=heard.append)
    assert not heard
    assert_same(again, whole)


def test_interrupted_by_a_full_disk_the_run_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(fastnet_recipe())
    replaced, renamed = os.replace, []

    def fails_once(source: str, target: Path) -> None:
        renamed.append(target)
        if len(renamed) == 5:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(MenagerieError, match="No space left on device"):
        fit(job, tmp_path / "run")
    assert 0 < RunFolder(tmp_path / "run", job).step() < STEPS
    assert_same(fit(job, tmp_path / "run"), fit(job, tmp_path / "whole"))


_TRAIN = """
import sys, time
from pathlib import Path
import torch
from tests.training.test_resume import mosaic_job
from tests.training.conftest import CPU
from training.loop import train
from training.run import RunFolder

data, run, threads, recipe = sys.argv[1:]
torch.set_num_threads(int(threads))
job = mosaic_job(Path(data), recipe)
train(job, RunFolder(Path(run), job), device=CPU, progress=lambda row: time.sleep(0.02), save_every=0.0)
"""


def mosaic_job(data: Path, recipe: str) -> Job:
    """What `zoo train` would make of a folder: 45 steps."""
    chosen = {"fastnet": fastnet_recipe, "rich": rich_recipe}[recipe](epochs=9)
    return Job(chosen, 7, "colours", *load_training("colours", data), *MEAN_STD["cifar10"])


@pytest.mark.parametrize("recipe", ["fastnet", pytest.param("rich", marks=pytest.mark.slow)])
def test_killed_at_a_random_moment_the_run_ends_the_same(recipe: str, tmp_path: Path) -> None:
    data = write_mosaic(tmp_path / "data", {"train-1": toy_split(28, size=26), "train-2": toy_split(20, 1, size=26)})
    run, delay = tmp_path / "run", random.SystemRandom().uniform(0, 0.3)
    words = [sys.executable, "-c", _TRAIN, data, run, torch.get_num_threads(), recipe]
    with subprocess.Popen([str(word) for word in words], cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while not (run / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    job = mosaic_job(data, recipe)
    left_at = RunFolder(run, job).step()
    assert 0 < left_at < 45
    resumed, whole = fit(job, run, save_every=3600), fit(job, tmp_path / "whole", save_every=3600)
    assert len(whole.rows) == 9
    same = weights(resumed.net) == weights(whole.net) and metrics(resumed) == metrics(whole)
    assert same, f"killed {delay:.3f} s after the first save, at step {left_at}"
