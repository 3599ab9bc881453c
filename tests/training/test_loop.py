"""The loop against a plain one, averages against the recorded weights, and runs that end in NaN."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import CPU, fastnet_recipe, fit, noisy_recipe, rich_recipe, toy_job
from training.augment import Batches
from training.job import Job
from training.loop import Trained, train
from training.prepare import prepare_network
from training.recipe import Average, Distill, Optimizer, ParamGroup, Recipe, Schedule
from training.run import RunFolder
from training.whitening import whitening_filters
from zoo.archs import ARCHS, create
from zoo.archs.fastnet import FastNet
from zoo.errors import MenagerieError, UsageError

STEPS = 8  # of `toy_job`: two epochs of four


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy with the target `(1 - smoothing) * onehot + smoothing / C`, the mean over a batch."""
    classes = logits.shape[1]
    target = (1 - smoothing) * torch.eye(classes)[labels] + smoothing / classes
    return (target * (logits.logsumexp(1, keepdim=True) - logits)).sum(1).mean()


def plain_loop(job: Job) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Nesterov SGD in fp32 with a linear schedule, written out; also returns the loss and accuracy of each epoch."""
    recipe, sgd = job.recipe, job.recipe.optimizer
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
            lr = sgd.lr * max(0.0, 1 - step / (recipe.schedule.end * total))
            grads = torch.autograd.grad(loss, trainable)
            with torch.no_grad():
                for p, v, grad in zip(trainable, velocity, grads, strict=True):
                    decayed = grad + sgd.weight_decay * p
                    v.mul_(sgd.momentum).add_(decayed)
                    p.sub_(lr * (decayed + sgd.momentum * v))
            losses.append(float(loss.detach()))
            right.append(float((logits.argmax(1) == labels).float().mean()))
            step += 1
        epochs.append((float(np.mean(losses)), float(np.mean(right))))
    return net.eval(), epochs


def test_loop_equals_a_plain_one(tmp_path: Path) -> None:
    recipe = noisy_recipe(
        optimizer=Optimizer(0.02, momentum=0.8, weight_decay=0.01),
        schedule=Schedule("linear", end=0.75),
        label_smoothing=0.1,
        arch_args={"depth": 10, "width": 1},
    )
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


@pytest.mark.parametrize("recipe", [fastnet_recipe, noisy_recipe, rich_recipe])
def test_loss_goes_down_and_the_classes_are_learnt(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    trained = fit(toy_job(recipe(epochs=5)), tmp_path)
    losses = [row["train_loss"] for row in trained.rows]
    assert losses[-1] < 0.8 * losses[0]
    # A third by chance; the labels of mixed images are not to be had in full.
    assert trained.rows[-1]["train_accuracy"] > (0.8 if recipe().augment.mix == "none" else 0.5)
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
    columns = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds"
    assert list(trained.rows[0]) == columns.split(",")
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == columns
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


class Recorder(RunFolder):
    """A run's folder that remembers every state it was given; only CPU copies of the network are kept."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self.nets: list[dict[str, Tensor]] = []

    def save(self, state: dict[str, Any], rows: list[dict[str, float]]) -> None:
        self.nets.append({name: value.clone() for name, value in state["net"].items()})
        super().save(state, rows)


def record(job: Job, folder: Path) -> tuple[Trained, list[dict[str, Tensor]]]:
    """Train, and return the network's state after each step too."""
    run = Recorder(folder, job)
    trained = train(job, run, device=CPU, progress=lambda _row: None, save_every=0)
    assert len(run.nets) == STEPS
    return trained, run.nets


def test_ema_is_that_of_the_recorded_weights_and_statistics(tmp_path: Path) -> None:
    trained, nets = record(toy_job(noisy_recipe(average=Average("ema", every=2, decay=0.5))), tmp_path)
    seen = nets[1::2]
    for name, value in trained.net.state_dict().items():
        if value.is_floating_point():
            expected = seen[0][name].double()
            for t, net in enumerate(seen[1:], 1):
                decay = min(0.5**2, (1 + t) / (10 + t))
                expected = decay * expected + (1 - decay) * net[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(0 <= row["val_accuracy_average"] <= 1 for row in trained.rows)


def test_swa_is_the_mean_of_the_recorded_weights_with_statistics_of_its_own(tmp_path: Path) -> None:
    job = toy_job(noisy_recipe(average=Average("swa", every=3, start=0.25), batch_size=8))
    trained, nets = record(job, tmp_path)
    names = [name for name, _ in trained.net.named_parameters()]
    for name in names:  # from a quarter of eight steps on, every third, such that the last is among them
        expected = torch.stack([nets[step - 1][name].double() for step in (2, 5, 8)]).mean(0)
        torch.testing.assert_close(trained.net.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-6)
    batches = Batches(job.part, job.recipe.augment, 8, job.seed, *job.stats, CPU)
    first = next(m for m in trained.net.modules() if isinstance(m, nn.Conv2d))
    norm = next(m for m in trained.net.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        outputs = [first(images) for images, _ in batches.epoch(job.recipe.epochs)]
    means = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)


def test_snapshots_are_the_recorded_networks_at_the_ends_of_the_cycles(tmp_path: Path) -> None:
    job = toy_job(noisy_recipe(schedule=Schedule("restarts", cycles=3), snapshots=True))
    trained, nets = record(job, tmp_path)
    assert list(trained.others) == ["snapshot1", "snapshot2"]
    for suffix, step in (("snapshot1", 3), ("snapshot2", 5)):  # 8/3 and 16/3, rounded
        kept = trained.others[suffix].state_dict()
        assert all(torch.equal(kept[name], value) for name, value in nets[step - 1].items())
        assert not trained.others[suffix].training
    assert all(torch.equal(trained.net.state_dict()[name], value) for name, value in nets[-1].items())


def test_swag_files_as_many_samples_as_asked(tmp_path: Path) -> None:
    average = Average("swag", every=2, start=0.25, rank=2, samples=2)
    trained = fit(toy_job(noisy_recipe(average=average)), tmp_path)
    assert list(trained.others) == ["sample1", "sample2"]
    flat = [
        torch.cat([p.flatten() for p in net.parameters()]).detach() for net in (trained.net, *trained.others.values())
    ]
    assert all((one - other).norm() > 0 for one, other in itertools.combinations(flat, 2))


ADVICE = "Lower the learning rate, warm up for longer (schedule.warmup) or clip the gradient (clip_norm)"


def test_exploding_loss_names_the_step_and_what_to_do(tmp_path: Path) -> None:
    recipe = noisy_recipe(optimizer=Optimizer(1e30))
    said = rf"^the loss is (nan|inf) after step 2; nothing was saved before\. {re.escape(ADVICE)}$"
    for _ in range(2):  # going on does not hide it
        with pytest.raises(MenagerieError, match=said):
            fit(toy_job(recipe), tmp_path, save_every=3600)
    assert not (tmp_path / "metrics.csv").exists()
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("save_every", [0.0, 3600.0])
@pytest.mark.parametrize("average", [None, Average("ema", decay=0.5)])
def test_weights_that_explode_are_never_saved(average: Average | None, save_every: float, tmp_path: Path) -> None:
    # Weight decay alone moves these weights. The loss of step 6 is finite, its update is not.
    schedule = Schedule("lambda", factor="1e-42 if step < 5 else 1")
    job = toy_job(noisy_recipe(optimizer=Optimizer(1e30, weight_decay=1e10), schedule=schedule, average=average))
    found = "the weights are not finite after step 6" if save_every == 0 else "the loss is nan after step 7"
    good = 5 if save_every == 0 else 4
    said = f"{found}; the last good state, of step {good}, is in {tmp_path}. {ADVICE}"
    for _ in range(2):
        with pytest.raises(MenagerieError, match=f"^{re.escape(said)}$"):
            fit(job, tmp_path, save_every)
        state = RunFolder(tmp_path, job).load()
        assert state is not None
        assert state["step"] == good
        tensors = list(tensors_of(state))
        assert len(tensors) > 2 * len(list(prepare_network(job).parameters()))  # the momentum too
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)


def tensors_of(value: object) -> Iterator[Tensor]:
    """Find all tensors in nested tables and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(inner)


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
            if x.device == CPU:  # not when only sizes are checked
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
            "recipe 'toy': 34 training images do not fill a batch of 35: lower it with --set batch_size=N",
        ),
        (fastnet_recipe(arch="fastnett"), "unknown architecture 'fastnett' (did you mean 'fastnet'?)"),
        (fastnet_recipe(arch_args={"width": 8}), "architecture 'fastnet': "),
        (
            fastnet_recipe(groups=(ParamGroup("haed.weight", Optimizer(1.0), Schedule()),)),
            "[[groups]] params = 'haed.weight' matches no parameter that is left",
        ),
        (noisy_recipe(distill=Distill()), "the recipe needs a teacher: give --teacher NAME"),
        (
            noisy_recipe(schedule=Schedule("restarts", cycles=9), snapshots=True),
            "recipe 'noisy': 8 steps are too few for 9 cycles with a snapshot each: lower schedule.cycles",
        ),
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
