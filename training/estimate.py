"""What a run will take, before it is started: parameters, arithmetic, memory, time."""

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from training.augment import Batches
from training.distill import Teaching
from training.distributed import World
from training.job import Job
from training.prepare import prepare_network
from training.recipe import Recipe
from training.step import Step
from tta import autocast
from zoo.data import DATASETS, MEAN_STD, Split
from zoo.errors import UsageError

__all__ = ["Estimate", "estimate", "stand_in"]

_SAMPLE = 4
"""Images that arithmetic and activations are counted on; half as many tell apart what does not grow with them."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        parameters: of the network.
        steps: of the optimizer.
        flops: of all forward and backward passes, two a multiply-add; the past network of self-distillation included,
            optimizer and augmentation left out.
        memory: peak bytes. On a GPU measured; on a CPU the sum of data, weights, gradients, optimizer state, averages
            and the activations that wait for the backward pass (an estimate, temporary buffers left out).
        memory_measured: which of the two.
        step_seconds: median of the measured steps, augmentation included.
        measured_steps: how many they were.
    """

    parameters: int
    steps: int
    flops: int
    memory: int
    memory_measured: bool
    step_seconds: float
    measured_steps: int

    @property
    def seconds(self) -> float:
        """Seconds of training; validation left out."""
        return self.step_seconds * self.steps

    @property
    def speed(self) -> float:
        """Floating-point operations a second, of forward and backward passes."""
        return self.flops / self.seconds


def estimate(job: Job, device: torch.device, seconds: float = 15.0) -> Estimate:
    """Count and measure what a job takes, by a few of its own steps.

    A given teacher's cost is left out: the labels alone are the targets of the measured steps.

    Args:
        job: images, recipe and seed; only the number and the size of the images matter.
        device: where the run is to be.
        seconds: how long to measure; at least one step is.

    Raises:
        UsageError: the recipe does not fit the network or the data.
    """
    recipe = job.recipe
    job.check()
    net = prepare_network(job).train()
    flops, fixed, activations = _per_image(net, job)
    passes = job.steps * recipe.batch_size * (2 if recipe.sam else 1)
    net.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batches = Batches(job.part, recipe.augment, recipe.batch_size, job.seed, *job.stats, device)
    teaching = Teaching(recipe.distill, None) if recipe.distill and recipe.distill.teacher == "self" else None
    if teaching:
        teaching.end_epoch(net)  # in its first epoch there is no past network yet
    times = _time_steps(Step(net, job, device, World(), teaching), batches, device, seconds)
    averages = _average_bytes(net, job)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) + averages
    else:
        at_once = math.ceil(recipe.batch_size / recipe.accumulate)
        memory = job.part.images.nbytes + _state_bytes(net, job) + averages + fixed + activations * at_once
    return Estimate(
        parameters=sum(p.numel() for p in net.parameters()),
        steps=job.steps,
        flops=flops * passes,
        memory=memory,
        memory_measured=device.type == "cuda",
        step_seconds=statistics.median(times),
        measured_steps=len(times),
    )


def stand_in(recipe: Recipe, dataset: str) -> Job:
    """Return a job on noise, with as many images and classes as CIFAR's training part has.

    Raises:
        UsageError: `dataset` is another one, of which nothing is known without its data.
    """
    if dataset not in DATASETS:
        raise UsageError(f"nothing is known of {dataset!r} without its images: give --data DIR")
    classes = tuple(str(label) for label in range(10 if dataset == "cifar10" else 100))
    rng = np.random.default_rng(0)

    def noise(images: int) -> Split:
        pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        return Split(pixels, np.arange(images) % len(classes), classes)

    return Job(recipe, 0, dataset, noise(45_000), noise(5_000), *MEAN_STD[dataset])


def _time_steps(take_step: Step, batches: Batches, device: torch.device, seconds: float) -> list[float]:
    """Return the seconds of each step; the first, with what is done only once, does not count if there are others."""
    times: list[float] = []
    began = last = time.perf_counter()
    for number, (images, targets) in enumerate(batches.epoch(0)):
        take_step(images, targets, number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if now - began > seconds and number:
            break
    return times[1:] or times


def _per_image(net: nn.Module, job: Job) -> tuple[int, int, int]:
    """Return what an image takes: operations, and bytes kept for the backward pass (first those of all together)."""
    half = _SAMPLE // 2
    flops, kept = _count(net, job, half)
    more_flops, more_kept = _count(net, job, _SAMPLE)
    per_image = (more_kept - kept) // half
    return (more_flops - flops) // half, max(kept - per_image * half, 0), per_image


def _count(net: nn.Module, job: Job, sample: int) -> tuple[int, int]:
    """Return the floating-point operations and the bytes kept for the backward pass, for a batch of `sample` images.

    The bytes that do not grow with the batch are weights in another precision or form.
    """
    images = torch.zeros(sample, 3, *job.input_size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(sample, dtype=torch.int64)
    own = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    state = {name: value.clone() for name, value in net.state_dict().items()}
    cpu = torch.device("cpu")
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(cpu, job.recipe.precision):
            logits = net(images)
        loss = functional.cross_entropy(logits.float(), labels)
        bytes_kept, forward = sum(kept.values()), counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    net.zero_grad()
    net.load_state_dict(state)
    past = forward if job.recipe.distill and job.recipe.distill.teacher == "self" else 0
    return counter.get_total_flops() + past, bytes_kept


def _state_bytes(net: nn.Module, job: Job) -> int:
    """Return the bytes of weights, gradients and optimizer state, and of the copies that SAM and distillation keep."""
    recipe = job.recipe
    copies = 2  # weights and gradients
    copies += 2 if any(group.optimizer.kind == "adamw" for group in recipe.all_groups()) else 1
    copies += 1 if recipe.sam else 0
    copies += 1 if recipe.distill and recipe.distill.teacher == "self" else 0
    return _bytes(net) * copies


def _average_bytes(net: nn.Module, job: Job) -> int:
    """Return the bytes of the average of the weights, with what belongs to it."""
    average = job.recipe.average
    if average is None:
        return 0
    return _bytes(net) * (2 + average.rank if average.kind == "swag" else 1)


def _bytes(net: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
