"""Counts against published numbers and arithmetic by hand, memory against what torch says it keeps."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from tests.training.conftest import CPU, fastnet_recipe, noisy_recipe, plain_recipe, rich_recipe, toy_job
from training.estimate import Estimate, estimate, stand_in
from training.job import Job
from training.prepare import prepare_network
from training.recipe import Average, Distill, Recipe, Sam
from training.recipe_file import load_recipe
from zoo.archs import ARCHS
from zoo.errors import UsageError


def measure(recipe: Recipe) -> Estimate:
    return estimate(toy_job(recipe), CPU, seconds=0.0)


def test_fastnet_in_numbers() -> None:
    """Multiply-adds by hand: output pixels x inputs of each output value x output channels."""
    first = 31**2 * (3 * 4) * 24
    others = (
        31**2 * (24 * 9) * 64
        + 15**2 * (64 * 9) * (64 + 256)
        + 7**2 * (256 * 9) * (256 + 256)
        + 3**2 * (256 * 9) * 256
        + 256 * 10
    )
    recipe = dataclasses.replace(load_recipe("fastnet"), batch_size=9)
    full = stand_in(recipe, "cifar10")
    assert (len(full.part), len(full.val)) == (45_000, 5_000)
    job = dataclasses.replace(full, part=full.part.subset(slice(90)))  # enough to count and to measure on
    found = estimate(job, CPU, seconds=0.0)
    assert found.parameters == 1_972_792
    assert found.steps == 10 * 10
    # Backward, each layer takes a pass for its weights and one for its input; the first layer, whose weights are
    # frozen and whose input is the image, takes neither.
    assert found.flops == 2 * (first + 3 * others) * 10 * 90


def test_a_first_layer_that_learns_takes_no_gradient_of_its_input() -> None:
    class Two(nn.Sequential):
        def __init__(self, classes: int) -> None:
            super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, classes))

    macs = 10 * 10 * 27 * 4, 4 * 10 * 10 * 3
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ARCHS, "two", (Two, {}))
        recipe = noisy_recipe(arch="two", arch_args={})
        job = dataclasses.replace(toy_job(noisy_recipe()), recipe=recipe)
        found = estimate(job, CPU, seconds=0.0)
        with_sam = estimate(dataclasses.replace(job, recipe=noisy_recipe(arch="two", arch_args={}, sam=Sam(0.1))), CPU)
        distilled = noisy_recipe(arch="two", arch_args={}, distill=Distill("self"))
        taught = estimate(dataclasses.replace(job, recipe=distilled), CPU, seconds=0.0)
    images = 2 * 4 * 8  # two epochs of four batches
    assert found.flops == 2 * (2 * macs[0] + 3 * macs[1]) * images
    assert with_sam.flops == 2 * found.flops
    assert taught.flops == 2 * (3 * macs[0] + 4 * macs[1]) * images


def kept_by_torch(job: Job, images: int) -> int:
    """Return the bytes of all storages that torch keeps for the backward pass of a batch."""
    net = prepare_network(job).train()
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}  # alive, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        inputs = torch.rand(images, 3, *job.input_size).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=job.recipe.precision == "bf16"):
            logits = net(inputs)
        functional.cross_entropy(logits.float(), torch.zeros(images, dtype=torch.int64))
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_memory_is_the_sum_of_its_parts(precision: str, accumulate: int) -> None:
    job = toy_job(noisy_recipe(precision=precision, accumulate=accumulate))
    net = prepare_network(job)
    weights = sum(4 * p.numel() for p in net.parameters()) + sum(b.nbytes for b in net.buffers())
    expected = job.part.images.nbytes + 3 * weights + kept_by_torch(job, 8 // accumulate)
    found = estimate(job, CPU, seconds=0.0)
    assert not found.memory_measured
    assert found.memory == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"average": Average("ema")}, 1),
        ({"average": Average("swag", start=0.1, rank=5)}, 7),
        ({"sam": Sam(0.1)}, 1),
        ({"distill": Distill("self")}, 1),
    ],
)
def test_memory_of_what_is_kept_besides(changes: dict[str, Any], copies: int) -> None:
    net = prepare_network(toy_job(plain_recipe()))
    weights = sum(4 * p.numel() for p in net.parameters())
    assert measure(plain_recipe(**changes)).memory - measure(plain_recipe()).memory == copies * weights


@pytest.mark.parametrize("recipe", [fastnet_recipe(), noisy_recipe(), rich_recipe()], ids=lambda r: r.name)
def test_time_is_that_of_the_steps(recipe: Recipe) -> None:
    found = measure(recipe)
    assert found.steps == 8
    assert found.measured_steps >= 1
    assert 0 < found.step_seconds < 10
    assert found.seconds == pytest.approx(8 * found.step_seconds)
    assert found.speed == pytest.approx(found.flops / found.seconds)


def test_a_teacher_that_is_to_be_given_is_left_out() -> None:
    assert measure(plain_recipe(distill=Distill())).flops == measure(plain_recipe()).flops


def test_the_stand_in_for_cifar100_has_its_classes() -> None:
    job = stand_in(plain_recipe(), "cifar100")
    assert len(job.part.classes) == 100
    assert set(job.part.labels.tolist()) == set(range(100))
    assert job.input_size == (32, 32)


def test_of_other_data_nothing_is_known() -> None:
    with pytest.raises(UsageError, match=r"^nothing is known of 'photos' without its images: give --data DIR$"):
        stand_in(plain_recipe(), "photos")


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="34 training images do not fill a batch of 35"):
        measure(plain_recipe(batch_size=35))
