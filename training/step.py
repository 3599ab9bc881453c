"""One optimizer step: forward, backward, and the move of the weights."""

from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from training.augment.streams import Stream
from training.distill import Teaching
from training.distributed import World
from training.job import Job
from training.losses import hits
from training.optimizers import build_optimizers
from training.sam import ascend, frozen_statistics
from training.schedules import factor, plateau
from tta import autocast
from zoo.errors import UsageError

__all__ = ["Step"]


class Step:
    """Trains a network by a batch at a time, as its recipe says.

    What is drawn in a step (dropout, ShakeDrop) depends on (seed, step, rank) alone.

    Args:
        net: on `device`, in training mode; its parameters are moved in place.
        job: recipe and seed.
        device: where it is.
        world: the processes that train together; each takes its share of every batch.
        teaching: the teacher, if the recipe has one.
    """

    def __init__(self, net: nn.Module, job: Job, device: torch.device, world: World, teaching: Teaching | None) -> None:
        self._net, self._job, self._recipe, self._device = net, job, job.recipe, device
        self._world, self._teaching = world, teaching
        share = job.recipe.batch_size // world.size
        normed = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
        if normed and share < 2 * job.recipe.accumulate:
            raise UsageError(
                f"recipe {job.recipe.name!r}: {share} images a process in {job.recipe.accumulate} parts leave fewer "
                "than two for a pass, too few for BatchNorm: raise batch_size, or lower accumulate"
            )
        self._params = [p for p in net.parameters() if p.requires_grad]
        groups = build_optimizers(net, job.recipe.all_groups())
        self._optimizers = [optimizer for _, optimizer in groups]
        self._rates = [(group.optimizer.lr, group.schedule) for group, _ in groups]
        steps, per_epoch = job.steps, job.steps_per_epoch
        self._factors = [
            None if schedule.kind == "plateau" else factor(schedule, steps, per_epoch) for _, schedule in self._rates
        ]
        self._plateaus = [
            plateau(schedule, optimizer) if schedule.kind == "plateau" else None
            for optimizer, (_, schedule) in zip(self._optimizers, self._rates, strict=True)
        ]
        self._scaler = torch.amp.GradScaler(device.type, enabled=job.recipe.precision == "fp16")
        compiled = cast("nn.Module", torch.compile(net)) if job.recipe.compile and device.type == "cuda" else net
        self._forward = world.wrap(compiled, device)

    def __call__(self, images: Tensor, targets: Tensor, step: int, answers: Tensor | None = None) -> Tensor:
        """Take step number `step` (from 0).

        Args:
            images: this process's share of the batch, normalised `[B, 3, H, W]`.
            targets: labels `[B]` or class probabilities `[B, C]`.
            step: of the run.
            answers: a teacher's `[B, C]`, if they are stored.

        Returns:
            Float64 `[2]`: the sum of the losses over the batch, and the number of right answers; on the device.
        """
        for optimizer, (lr, _), at in zip(self._optimizers, self._rates, self._factors, strict=True):
            if at is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr * at(step)
        sam = self._recipe.sam
        # The first of SAM's gradients is each process's own, as in the paper; only the second is averaged.
        sums = self._gradients(images, targets, step, answers, alone=sam is not None)
        if sam is not None:
            with ascend(self._params, sam.rho, adaptive=sam.adaptive), frozen_statistics(self._net):
                self._gradients(images, targets, step, answers, alone=False)
        if self._recipe.clip_norm:
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self._params, self._recipe.clip_norm)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        self._zero_grad()
        return sums

    def _gradients(self, images: Tensor, targets: Tensor, step: int, answers: Tensor | None, *, alone: bool) -> Tensor:
        """Leave the gradient of the batch's mean loss in the parameters, and return what `__call__` does."""
        torch.manual_seed(_step_seed(self._job.seed, step, self._world.rank))
        count = self._recipe.accumulate
        told = [None] * count if answers is None else answers.chunk(count)
        parts = list(zip(images.chunk(count), targets.chunk(count), told, strict=True))
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for number, (some, wanted, said) in enumerate(parts, 1):
            forward = self._forward
            averaging = isinstance(forward, DistributedDataParallel) and (alone or number < len(parts))
            with forward.no_sync() if averaging else nullcontext():  # type: ignore[operator]  # DDP's own
                with autocast(self._device, self._recipe.precision):
                    logits: Tensor = forward(some)
                loss = functional.cross_entropy(logits.float(), wanted, label_smoothing=self._recipe.label_smoothing)
                if self._teaching is not None:
                    with autocast(self._device, self._recipe.precision):
                        loss = self._teaching.loss(loss, logits, some, step / self._job.steps, said)
                share = len(some) / len(images)
                self._scaler.scale(loss * share if len(parts) > 1 else loss).backward()  # type: ignore[no-untyped-call]
            sums += torch.stack((loss.detach() * len(some), hits(logits, wanted)))
        return sums

    def _zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def end_epoch(self, val_accuracy: float) -> None:
        """Let schedules that wait for a plateau look at the epoch's validation accuracy."""
        for waiting in self._plateaus:
            if waiting is not None:
                waiting.step(val_accuracy)

    @property
    def learning_rates(self) -> list[float]:
        """Each group's learning rate in the last step."""
        return [float(optimizer.param_groups[0]["lr"]) for optimizer in self._optimizers]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizers, plateaus and loss scale."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "plateaus": [None if waiting is None else waiting.state_dict() for waiting in self._plateaus],
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for waiting, saved in zip(self._plateaus, state["plateaus"], strict=True):
            if waiting is not None:
                waiting.load_state_dict(saved)
        self._scaler.load_state_dict(state["scaler"])


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of what one process draws in one step."""
    return int(np.random.SeedSequence([seed, Stream.STEP, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
