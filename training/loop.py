"""The training loop: every recipe runs through here."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.augment import Answers, Batches
from training.averaging import Averager, Swag, build_averager
from training.distill import Teacher, Teaching
from training.distributed import World
from training.job import Job
from training.losses import hits
from training.prepare import prepare_network
from training.recipe import Augment
from training.run import RunFolder
from training.step import Step
from tta import VIEW_SETS, view_logits
from zoo.errors import InterruptedRun, MenagerieError, UsageError

__all__ = ["Trained", "train"]

_LOOK_EVERY = 20
"""Steps between looks at what costs a GPU or several processes a synchronisation: is the loss finite, shall we stop."""


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        net: the network (averaged, if the recipe says so) in eval mode, on the CPU, in fp32.
        rows: its metrics, a row an epoch.
        others: what else is to be filed, by the suffix of its name: `snapshot1`, `sample1`, ...
    """

    net: nn.Module
    rows: list[dict[str, float]]
    others: dict[str, nn.Module] = field(default_factory=dict)


def train(
    job: Job,
    run: RunFolder | None,
    *,
    device: torch.device,
    progress: Callable[[dict[str, float] | None], None],
    save_every: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    teacher: Teacher | Answers | None = None,
    world: World | None = None,
) -> Trained:
    """Train one network, or go on where `run` was left.

    Same recipe, seed, data in the same order, and machine: same weights, interrupted or not, bit for bit on a CPU with
    the same number of threads. (cuDNN has kernels that add up in no fixed order.)

    Args:
        job: recipe, seed and data.
        run: where state and metrics are kept; None in the processes that do not lead.
        device: where to train; the data lies there too.
        progress: called after each step; with the epoch's metrics after its last one.
        save_every: seconds between saved states, apart from the one at the end of each epoch.
        stop: asked now and then; once it says yes, the state is saved and the run ends.
        teacher: for a recipe that distils from a given one, or its stored answers, on `device`.
        world: the processes that train together; alone by default.

    Raises:
        UsageError: the recipe does not fit the network, the data or the processes.
        InterruptedRun: `stop` said so.
        MenagerieError: the loss is not finite any more; the saved state is the last good one.
    """
    world = world or World()
    loop = _Loop(job, device, world, teacher)
    state = world.lead(lambda: run.load() if run else None)
    if state is not None:
        loop.load_state(state)
    saved = time.monotonic()
    try:
        while loop.step < job.steps:
            for row in loop.run_epoch():
                stopping = loop.agrees() and world.any(stop(), device)
                due = loop.agrees() and world.any(time.monotonic() - saved > save_every, device)
                if row is not None or stopping or due or loop.step in job.snapshot_steps:
                    loop.save(run)
                    saved = time.monotonic()
                progress(row)
                if stopping and loop.step < job.steps:
                    raise InterruptedRun(f"stopped after step {loop.step} of {job.steps}, state saved")
    except _NotFiniteError as error:
        good = run.step() if run else 0
        kept = f"the last good state, of step {good}, is in {run.path}" if run and good else "nothing was saved before"
        raise MenagerieError(
            f"{error}; {kept}. Lower the learning rate, warm up for longer (schedule.warmup) or clip the gradient"
            " (clip_norm)"
        ) from error
    return loop.result(run)


def _snapshot(index: int) -> str:
    return f"snapshot{index + 1}"


class _NotFiniteError(Exception):
    """The loss or a weight is NaN or infinite."""


class _Loop:
    """The state of a run, and how it moves on by an epoch."""

    def __init__(self, job: Job, device: torch.device, world: World, teacher: Teacher | Answers | None) -> None:
        recipe = job.recipe
        self.job, self.device, self.world = job, device, world
        job.check()
        self.net = prepare_network(job).to(device).train()
        self.answers = teacher if isinstance(teacher, Answers) else None
        self.batches = self._batches(recipe.augment, world)
        if recipe.distill is None and teacher is not None:
            raise UsageError(f"recipe {recipe.name!r} has no [distill] table, so there is no use for a teacher")
        self.teaching = Teaching(recipe.distill, teacher) if recipe.distill else None
        self.take_step = Step(self.net, job, device, world, self.teaching)
        self.averager: Averager | None = build_averager(recipe.average, self.net, job.steps)
        self.step = 0
        self.seconds = 0.0
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of loss and of right answers, this epoch
        self.rows: list[dict[str, float]] = []

    def _batches(self, augment: Augment, world: World) -> Batches:
        job, recipe = self.job, self.job.recipe
        return Batches(
            job.part,
            augment,
            recipe.batch_size,
            job.seed,
            *job.stats,
            self.device,
            rank=world.rank,
            world=world.size,
            answers=self.answers,
        )

    def run_epoch(self) -> Iterator[dict[str, float] | None]:
        """Train to the end of the current epoch; yield None after each step and the metrics after the last."""
        epoch, start = divmod(self.step, len(self.batches))
        began = time.perf_counter()
        self.net.train()
        for images, targets, answers in self.batches.taught(epoch, start):
            self.sums += self.take_step(images, targets, self.step, answers)
            self.step += 1
            if self.averager is not None:
                self.averager.update(self.net, self.step)
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            if self.step % len(self.batches):
                if self.device.type == "cpu" or self.step % _LOOK_EVERY == 0:
                    self._check_loss()
                yield None
        row = self._end_epoch(epoch)
        self.seconds += time.perf_counter() - began
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        yield row

    def agrees(self) -> bool:
        """Say whether this is a step at which the processes agree on what to do next; one alone always does."""
        return self.world.size == 1 or self.step % _LOOK_EVERY == 0 or self.step % len(self.batches) == 0

    def save(self, run: RunFolder | None) -> None:
        """Save the state, and the network if this is the end of a cycle; nothing that is not finite."""
        self._check_loss()
        self._check_weights()
        state = self.state()
        ends = self.job.snapshot_steps

        def write() -> None:
            if run and self.step in ends:
                run.save_network(_snapshot(ends.index(self.step)), self.net)
            if run:
                run.save(state, self.rows)

        self.world.lead(write)

    def _check_loss(self) -> None:
        loss = float(self.world.sum(self.sums.clone())[0])
        if not math.isfinite(loss):
            raise _NotFiniteError(f"the loss is {loss} after step {self.step}")

    def _check_weights(self) -> None:
        """Look at BatchNorm's statistics too: they may overflow in a step whose loss is finite."""
        values = [t.detach() for t in (*self.net.parameters(), *self.net.buffers()) if t.is_floating_point()]
        norms = torch._foreach_norm(values, math.inf)  # noqa: SLF001  # torch's own optimizers use it
        if self.world.any(not bool(torch.stack(norms).isfinite().all()), self.device):
            raise _NotFiniteError(f"the weights are not finite after step {self.step}")

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the epoch that just ended."""
        self._check_loss()
        images = len(self.batches) * self.job.recipe.batch_size
        loss, right = (self.world.sum(self.sums).cpu() / images).tolist()
        self.sums.zero_()
        row = {
            "epoch": epoch + 1,
            "train_loss": round(loss, 5),
            "train_accuracy": round(right, 5),
        }
        row["val_loss"], row["val_accuracy"] = self._validate(self.net)
        if self.averager is not None and self.averager.averages_buffers and self.averager.ready:
            row["val_loss_average"], row["val_accuracy_average"] = self._validate(self._average())
        row["lr"] = float(f"{self.take_step.learning_rates[-1]:.6g}")
        self.take_step.end_epoch(row["val_accuracy"])
        if self.teaching is not None:
            self.world.share_buffers(self.net)
            self.teaching.end_epoch(self.net)
        return row

    def _validate(self, net: nn.Module) -> tuple[float, float]:
        """Return NLL (nats) and top-1 accuracy on the validation split, without TTA, in the recipe's precision."""
        val, precision = self.job.val, self.job.recipe.precision

        def scores() -> tuple[float, float]:
            views = VIEW_SETS["none"]
            out = view_logits(net.eval(), val.images, views, self.job.stats, device=self.device, precision=precision)
            logits, labels = torch.from_numpy(out["none"]), torch.from_numpy(val.labels)
            return round(float(functional.cross_entropy(logits, labels)), 5), round(
                float(hits(logits, labels)) / len(labels), 5
            )

        return self.world.lead(scores)

    def _average(self) -> nn.Module:
        """Return the averaged network; statistics are recomputed on one more epoch of images, none of them mixed."""
        assert self.averager is not None  # noqa: S101  # callers check
        return self.averager.average(self.net, self._images, self.job.recipe.precision)

    def _images(self) -> Iterator[Tensor]:
        for images, _ in self._unmixed.epoch(self.job.recipe.epochs):
            yield images

    @cached_property
    def _unmixed(self) -> Batches:
        return self._batches(replace(self.job.recipe.augment, mix="none"), World())

    def result(self, run: RunFolder | None) -> Trained:
        """Return what was trained; averages and samples are made now."""
        others: dict[str, nn.Module] = {}
        if run:
            for suffix in map(_snapshot, range(len(self.job.snapshot_steps))):
                others[suffix] = run.load_network(suffix, prepare_network(self.job))
        net = self.net
        if self.averager is not None:
            net = self._average()
            if isinstance(self.averager, Swag):
                others |= self.averager.samples(self.net, self._images, self.job.seed, self.job.recipe.precision)
        return Trained(_plain(net), self.rows, {suffix: _plain(other) for suffix, other in others.items()})

    def state(self) -> dict[str, Any]:
        """Everything that `load_state` needs to go on, at any number of processes; all of them must ask."""
        return {
            "net": self.net.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.world.sum(self.sums.clone()),
            "moves": self.take_step.state_dict(),
            "average": self.averager.state_dict() if self.averager else None,
            "teaching": self.teaching.state_dict() if self.teaching else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.net.load_state_dict(state["net"])
        self.take_step.load_state_dict(state["moves"])
        if self.averager is not None:
            self.averager.load_state_dict(state["average"])
        if self.teaching is not None:
            self.teaching.load_state_dict(state["teaching"], self.net)
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        if self.world.leads:
            self.sums = state["sums"].to(self.device)


def _plain(net: nn.Module) -> nn.Module:
    return net.eval().cpu()
