"""The training loop: every recipe runs through here."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.augment import Batches
from training.job import Job
from training.optimizers import build_optimizers
from training.run import RunFolder
from training.whitening import whiten_first_layer
from tta import VIEW_SETS, view_logits
from zoo.archs import create
from zoo.errors import MenagerieError, UsageError
from zoo.images import normalize

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A finished run: the network in eval mode, on the CPU, in fp32; and its metrics, a row an epoch."""

    net: nn.Module
    rows: list[dict[str, float]]


def train(
    job: Job,
    run: RunFolder,
    *,
    device: torch.device,
    progress: Callable[[dict[str, float] | None], None],
    save_every: float = 60.0,
) -> Trained:
    """Train one network, or go on where `run` was left.

    Same recipe, seed, data in the same order, and machine: same weights, interrupted or not.

    Args:
        job: recipe, seed and data.
        run: where state and metrics are kept.
        device: where to train; the data lies there too.
        progress: called after each step; with the epoch's metrics after its last one.
        save_every: seconds between saved states, apart from the one at the end of each epoch.

    Raises:
        UsageError: the recipe does not fit the network or the data.
        MenagerieError: the loss is not finite any more.
    """
    loop = _Loop(job, device)
    state = run.load()
    if state is not None:
        loop.load_state(state)
    saved = time.monotonic()
    while loop.step < loop.total:
        for row in loop.run_epoch():
            if row is not None or time.monotonic() - saved > save_every:
                run.save(loop.state(), loop.rows)
                saved = time.monotonic()
            progress(row)
    return Trained(loop.net.eval().cpu(), loop.rows)


class _Loop:
    """The state of a run, and how it moves on by an epoch."""

    def __init__(self, job: Job, device: torch.device) -> None:
        recipe, part = job.recipe, job.part
        self.job, self.recipe, self.device = job, recipe, device
        torch.manual_seed(job.seed)
        self.net = create(recipe.arch, len(part.classes), **recipe.arch_args)
        if recipe.whitening:
            sample = torch.from_numpy(part.images[: recipe.whitening.images])
            layer = getattr(self.net, "whiten", None)
            if not isinstance(layer, nn.Conv2d):
                raise UsageError(f"recipe {recipe.name!r}: {recipe.arch} has no whitening layer")
            whiten_first_layer(layer, normalize(sample, *job.stats), recipe.whitening.eps)
        self.net.to(device)
        self.batches = Batches(part, recipe.augment, recipe.batch_size, job.seed, *job.stats, device)
        if not len(self.batches):
            raise UsageError(
                f"recipe {recipe.name!r}: {len(part)} training images do not fill a batch of {recipe.batch_size}"
            )
        if not len(job.val):
            raise UsageError(f"{len(part)} training images are too few to hold any out for validation")
        self.total = job.steps
        self.optimizers, self.schedules = build_optimizers(self.net, recipe.groups, self.total)
        self.step = 0
        self.seconds = 0.0
        self.sums = torch.zeros(2, dtype=torch.float64)  # of loss and of right answers, this epoch
        self.rows: list[dict[str, float]] = []

    def run_epoch(self) -> Iterator[dict[str, float] | None]:
        """Train to the end of the current epoch; yield None after each step and the metrics after the last."""
        epoch, start = divmod(self.step, len(self.batches))
        began = time.perf_counter()
        self.net.train()
        for images, labels in self.batches.epoch(epoch, start):
            self._train_step(images, labels)
            self.step += 1
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            if self.step % len(self.batches):
                yield None
        row = self._end_epoch(epoch)
        self.seconds += time.perf_counter() - began
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        yield row

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits: Tensor = self.net(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        right = (logits.argmax(1) == labels).sum()
        self.sums = self.sums.to(self.device) + torch.stack((loss.detach() * len(labels), right)).double()

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the epoch that just ended."""
        loss, right = (self.sums.cpu() / (len(self.batches) * self.recipe.batch_size)).tolist()
        self.sums.zero_()
        if not math.isfinite(loss):
            raise MenagerieError(f"the loss is {loss} in epoch {epoch + 1} (step {self.step}): lower the learning rate")
        return {
            "epoch": epoch + 1,
            "train_loss": round(loss, 5),
            "train_accuracy": round(right, 5),
            "val_accuracy": round(self._val_accuracy(), 5),
        }

    def _val_accuracy(self) -> float:
        """Return the top-1 accuracy on the validation split, without TTA, in the recipe's precision."""
        logits = view_logits(
            self.net.eval(),
            self.job.val.images,
            VIEW_SETS["none"],
            self.job.stats,
            device=self.device,
            precision=self.recipe.precision,
        )
        return float((logits["none"].argmax(1) == self.job.val.labels).mean())

    def state(self) -> dict[str, Any]:
        """Everything that `load_state` needs to go on."""
        return {
            "net": self.net.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.net.load_state_dict(state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self.sums = state["sums"]
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
