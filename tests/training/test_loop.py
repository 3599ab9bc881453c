"""The loop against a plain one, and runs that were interrupted against runs that were not."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import CPU, fastnet_recipe, fit, noisy_recipe, toy_job, toy_split
from tests.zoo.conftest import write_mosaic
from training.augment import Batches
from training.job import Job
from training.loop import Trained, train
from training.recipe import ParamGroup, Recipe
from training.run import RunFolder
from training.whitening import whitening_filters
from zoo.archs import ARCHS, create
from zoo.archs.fastnet import FastNet
from zoo.data import MEAN_STD, load_training
from zoo.errors import MenagerieError, UsageError

ROOT = Path(__file__).parents[2]
STEPS = 8  # of `toy_job`: two epochs of four


class Stop(Exception):  # noqa: N818  # not an error
    """Interrupts a run."""


def train_some(job: Job, folder: Path, steps: int, save_every: float = 0.0) -> None:
    """Train at most `steps` steps, and stop as abruptly as an exception can."""
    done = 0

    def progress(_row: object) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Stop

    with pytest.raises(Stop):
        train(job, RunFolder(folder, job), device=CPU, progress=progress, save_every=save_every)


def weights(net: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


def metrics(trained: Trained) -> list[dict[str, float]]:
    """All columns but the seconds, which nobody can repeat."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trained.rows]


def assert_same(one: Trained, other: Trained) -> None:
    assert weights(one.net) == weights(other.net)
    assert metrics(one) == metrics(other)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy with the target `(1 - smoothing) * onehot + smoothing / C`, the mean over a batch."""
    classes = logits.shape[1]
    target = (1 - smoothing) * torch.eye(classes)[labels] + smoothing / classes
    return (target * (logits.logsumexp(1, keepdim=True) - logits)).sum(1).mean()


def plain_loop(job: Job) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Nesterov SGD in fp32 for a recipe of one group, written out; also returns the loss and accuracy of each epoch."""
    (group,), recipe = job.recipe.groups, job.recipe
    torch.manual_seed(job.seed)
    net = create(recipe.arch, len(job.part.classes), **recipe.arch_args)
    trainable = [p for p in net.parameters() if p.requires_grad]
    velocity = [torch.zeros_like(p) for p in trainable]
    batches = Batches(job.part, recipe.augment, recipe.batch_size, job.seed, job.mean, job.std, CPU)
    total, step, epochs = recipe.epochs * len(batches), 0, []
    for epoch in range(recipe.epochs):
        losses, right = [], []
        for images, labels in batches.epoch(epoch):
            logits = net(images)
            loss = smoothed_cross_entropy(logits, labels, recipe.label_smoothing)
            lr = group.lr * max(0.0, 1 - step / (group.anneal * total))
            grads = torch.autograd.grad(loss, trainable)
            with torch.no_grad():
                for p, v, grad in zip(trainable, velocity, grads, strict=True):
                    decayed = grad + group.weight_decay * p
                    v.mul_(group.momentum).add_(decayed)
                    p.sub_(lr * (decayed + group.momentum * v))
            losses.append(float(loss.detach()))
            right.append(float((logits.argmax(1) == labels).float().mean()))
            step += 1
        epochs.append((float(np.mean(losses)), float(np.mean(right))))
    return net.eval(), epochs


def test_loop_equals_a_plain_one(tmp_path: Path) -> None:
    groups = (ParamGroup("*", "sgd", 0.02, 0.8, 0.01, anneal=0.75),)
    recipe = noisy_recipe(groups=groups, label_smoothing=0.1, arch_args={"depth": 10, "width": 1})
    job = toy_job(recipe, seed=5)
    trained = fit(job, tmp_path)
    net, epochs = plain_loop(job)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(trained.net.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    pixels = torch.from_numpy(job.val.images).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in job.stats)
    with torch.no_grad():
        guesses = net(((pixels - mean) / std).float()).argmax(1).numpy()
    assert [row["epoch"] for row in trained.rows] == [1, 2]
    assert [row["train_loss"] for row in trained.rows] == pytest.approx([e[0] for e in epochs], abs=2e-5)
    assert [row["train_accuracy"] for row in trained.rows] == pytest.approx([e[1] for e in epochs], abs=1e-5)
    assert trained.rows[-1]["val_accuracy"] == pytest.approx((guesses == job.val.labels).mean(), abs=1e-5)


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe])
def test_loss_goes_down_and_the_classes_are_learnt(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    trained = fit(toy_job(recipe(epochs=5)), tmp_path)
    losses = [row["train_loss"] for row in trained.rows]
    assert losses[-1] < 0.8 * losses[0]
    assert trained.rows[-1]["train_accuracy"] > 0.8  # a third by chance
    assert trained.rows[-1]["val_accuracy"] > 0.9
    assert not trained.net.training
    assert {p.dtype for p in trained.net.parameters()} == {torch.float32}


def test_progress_hears_of_each_step_and_of_each_epoch(tmp_path: Path) -> None:
    heard: list[dict[str, float] | None] = []
    job = toy_job(fastnet_recipe())
    trained = train(job, RunFolder(tmp_path, job), device=CPU, progress=heard.append)
    assert len(heard) == STEPS
    assert [i for i, row in enumerate(heard) if row is not None] == [3, 7]
    assert [row for row in heard if row is not None] == trained.rows
    assert list(trained.rows[0]) == ["epoch", "train_loss", "train_accuracy", "val_accuracy", "seconds"]
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "epoch,train_loss,train_accuracy,val_accuracy,seconds"
    assert lines[1:] == [",".join(map(str, row.values())) for row in trained.rows]
    assert 0 < trained.rows[0]["seconds"] < trained.rows[1]["seconds"]


def test_state_is_saved_no_more_often_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, saved = toy_job(fastnet_recipe()), []
    monkeypatch.setattr(RunFolder, "save", lambda _self, state, _rows: saved.append(state["step"]))
    fit(job, tmp_path, save_every=3600)
    assert saved == [4, 8]
    saved.clear()
    fit(job, tmp_path, save_every=0)
    assert saved == list(range(1, STEPS + 1))


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe])
def test_same_seed_same_weights(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = fit(toy_job(recipe(), seed=3), tmp_path / "one")
    torch.manual_seed(2)
    assert_same(one, fit(toy_job(recipe(), seed=3), tmp_path / "two"))
    other = fit(toy_job(recipe(), seed=4), tmp_path / "other")
    moved = {n for n, p in other.net.named_parameters() if not torch.equal(p, one.net.get_parameter(n))}
    assert moved == {n for n, p in other.net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("save_every", [0.0, 3600.0], ids=["each step", "each epoch"])
@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe])
def test_interrupted_at_any_step_the_run_ends_the_same(
    recipe: Callable[..., Recipe], save_every: float, tmp_path: Path
) -> None:
    job = toy_job(recipe())
    whole = fit(job, tmp_path / "whole", save_every)
    for steps in range(1, STEPS + 1):
        folder = tmp_path / f"interrupted-{steps}"
        train_some(job, folder, steps, save_every)
        torch.manual_seed(steps)
        assert RunFolder(folder, job).step() == (steps if save_every == 0 else steps // 4 * 4)
        assert_same(fit(job, folder, save_every), whole)


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe])
def test_interrupted_after_every_step_the_run_ends_the_same(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    job = toy_job(recipe())
    for step in range(STEPS):
        assert RunFolder(tmp_path / "run", job).step() == step
        train_some(job, tmp_path / "run", 1)
    assert_same(fit(job, tmp_path / "run"), fit(job, tmp_path / "whole"))


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
from tests.training.test_loop import mosaic_job
from tests.training.conftest import CPU
from training.loop import train
from training.run import RunFolder

data, run, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
job = mosaic_job(Path(data))
train(job, RunFolder(Path(run), job), device=CPU, progress=lambda row: time.sleep(0.02), save_every=0.0)
"""


def mosaic_job(data: Path) -> Job:
    """What `zoo train` would make of a folder: 45 steps."""
    return Job(fastnet_recipe(epochs=9), 7, "cifar10", *load_training("cifar10", data), *MEAN_STD["cifar10"])


def test_killed_at_a_random_moment_the_run_ends_the_same(tmp_path: Path) -> None:
    data = write_mosaic(tmp_path / "data", {"train-1": toy_split(28, size=26), "train-2": toy_split(20, 1, size=26)})
    run, delay = tmp_path / "run", random.SystemRandom().uniform(0, 0.3)
    words = [sys.executable, "-c", _TRAIN, data, run, torch.get_num_threads()]
    with subprocess.Popen([str(word) for word in words], cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while not (run / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    job = mosaic_job(data)
    left_at = RunFolder(run, job).step()
    assert 0 < left_at < 45
    resumed, whole = fit(job, run, save_every=3600), fit(job, tmp_path / "whole", save_every=3600)
    assert len(whole.rows) == 9
    same = weights(resumed.net) == weights(whole.net) and metrics(resumed) == metrics(whole)
    assert same, f"killed {delay:.3f} s after the first save, at step {left_at}"


def test_exploding_loss_is_one_clear_error(tmp_path: Path) -> None:
    recipe = noisy_recipe(groups=(ParamGroup("*", "sgd", 1e30),))
    with pytest.raises(MenagerieError, match=r"^the loss is (nan|inf) in epoch 1 \(step 4\): lower the learning rate$"):
        fit(toy_job(recipe), tmp_path)
    # Going on does not hide it.
    with pytest.raises(MenagerieError, match="lower the learning rate"):
        fit(toy_job(recipe), tmp_path)
    assert not (tmp_path / "metrics.csv").exists()


def test_first_layer_is_whitened_by_the_first_images_and_stays(tmp_path: Path) -> None:
    job = toy_job(fastnet_recipe())
    pixels = torch.from_numpy(job.part.images[:20]).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in job.stats)
    filters = whitening_filters((pixels - mean) / std, 2, 5e-4)
    trained = fit(job, tmp_path)
    assert isinstance(trained.net, FastNet)
    got = trained.net.whiten.weight
    signs = (got[:12] * filters).flatten(1).sum(1).sign().view(-1, 1, 1, 1)
    torch.testing.assert_close(got[:12] * signs, filters, rtol=1e-3, atol=1e-3)
    assert torch.equal(got[12:], -got[:12])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_decides_on_autocast(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype]] = []

    class Watched(FastNet):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, self.whiten(x).dtype))
            return super().forward(x)

    monkeypatch.setitem(ARCHS, "watched", (Watched, {}))
    trained = fit(toy_job(fastnet_recipe(arch="watched", precision=precision)), tmp_path)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert seen == [*[(True, kind)] * 4, (False, kind)] * 2
    assert {p.dtype for p in trained.net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            noisy_recipe(whitening=fastnet_recipe().whitening),
            "recipe 'noisy': wrn16-2 has no whitening layer",
        ),
        (
            fastnet_recipe(batch_size=35),
            "recipe 'toy': 34 training images do not fill a batch of 35",
        ),
        (fastnet_recipe(arch="fastnett"), "unknown architecture 'fastnett' (did you mean 'fastnet'?)"),
        (fastnet_recipe(arch_args={"width": 8}), "architecture 'fastnet': "),
        (fastnet_recipe(groups=(ParamGroup("head.weight", "sgd", 1.0),)), "no [[groups]] matches whiten.bias"),
    ],
)
def test_recipe_that_does_not_fit_is_refused(recipe: Recipe, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        fit(toy_job(recipe), tmp_path)
    assert not (tmp_path / "state.pt").exists()


def test_a_full_batch_is_enough(tmp_path: Path) -> None:
    job = toy_job(fastnet_recipe(batch_size=34))
    assert len(fit(job, tmp_path).rows) == 2


def test_data_too_small_to_hold_anything_out_is_an_error_in_words(tmp_path: Path) -> None:
    job = toy_job(fastnet_recipe())
    with pytest.raises(MenagerieError):
        fit(replace(job, val=job.val.subset(slice(0))), tmp_path)
