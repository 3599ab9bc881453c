"""Single steps against plain arithmetic: accumulation, clipping, SAM, loss scaling, rates, and what is drawn."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.conftest import COLOURS, CPU, noisy_recipe, plain_recipe, toy_job
from training.augment import Answers
from training.distill import Teaching
from training.distributed import World
from training.job import Job
from training.prepare import prepare_network
from training.recipe import Distill, Optimizer, ParamGroup, Recipe, Sam, Schedule
from training.step import Step
from zoo.errors import UsageError

BATCH = 8
RATE = 0.3


def sgd_recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    """Plain gradient descent, so that a step is `-RATE * gradient`."""
    fields: dict[str, Any] = {"optimizer": Optimizer(RATE, momentum=0.0), "schedule": Schedule("constant")}
    return plain_recipe(**(fields | changes))


def job_of(**changes: Any) -> Job:  # noqa: ANN401
    return toy_job(sgd_recipe(**changes), seed=3)


def small_net(*, norm: bool = False) -> nn.Sequential:
    """A smooth network, with a BatchNorm if wanted; `[N, 3, 2, 2]` -> `[N, 3]`."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6) if norm else nn.Identity(), nn.Tanh(), nn.Linear(6, 3)
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, 2, 2, generator=generator), torch.arange(BATCH) % len(COLOURS)


def step_of(net: nn.Module, job: Job, teaching: Teaching | None = None, rank: int = 0) -> Step:
    return Step(net, job, CPU, World(rank), teaching)


def gradients(net: nn.Module, images: Tensor, targets: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    loss = functional.cross_entropy(net(images), targets, label_smoothing=smoothing)
    return list(torch.autograd.grad(loss, list(net.parameters())))


def assert_moved(net: nn.Module, before: list[Tensor], grads: list[Tensor], factor: float = 1.0) -> None:
    for p, old, grad in zip(net.parameters(), before, grads, strict=True):
        torch.testing.assert_close(p.detach(), old - RATE * factor * grad, rtol=1e-5, atol=1e-6)
        assert not torch.equal(p.detach(), old)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
def test_a_batch_in_parts_is_the_whole_batch(accumulate: int) -> None:
    net, (images, targets) = small_net(), batch()
    before, grads = weights(net), gradients(net, images, targets, 0.1)
    with torch.no_grad():
        logits = net(images)
        losses = functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
        right = (logits.argmax(1) == targets).sum()
    sums = step_of(net, job_of(accumulate=accumulate, label_smoothing=0.1))(images, targets, 0)
    assert_moved(net, before, grads)
    assert sums.dtype == torch.float64
    assert sums.tolist() == pytest.approx([float(losses.sum()), float(right)], rel=1e-5)
    assert all(p.grad is None for p in net.parameters())


def test_parts_of_unequal_size_weigh_by_their_images() -> None:
    net, (images, targets) = small_net(), batch()
    before, grads = weights(net), gradients(net, images[:7], targets[:7])
    step_of(net, job_of(accumulate=4))(images[:7], targets[:7], 0)  # 2 + 2 + 2 + 1
    assert_moved(net, before, grads)


def test_probabilities_as_targets() -> None:
    net, (images, labels) = small_net(), batch()
    probs = 0.7 * torch.eye(3)[labels] + 0.3 * torch.eye(3)[labels.roll(1)]
    before = weights(net)
    loss = -(probs * net(images).log_softmax(1)).sum(1).mean()
    grads = list(torch.autograd.grad(loss, list(net.parameters())))
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).sum()
    sums = step_of(net, job_of())(images, probs, 0)
    assert_moved(net, before, grads)
    assert sums.tolist() == pytest.approx([BATCH * float(loss.detach()), float(right)], rel=1e-5)


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_a_gradient_longer_than_the_norm_is_shortened_to_it(share: float) -> None:
    net, (images, targets) = small_net(), batch()
    before, grads = weights(net), gradients(net, images, targets)
    norm = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in grads))
    step_of(net, job_of(clip_norm=share * norm))(images, targets, 0)
    assert_moved(net, before, grads, min(1.0, share))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sam_takes_the_gradient_up_the_slope(adaptive: bool, accumulate: int) -> None:
    net, rho, (images, targets) = small_net(), 0.2, batch()
    before, first = weights(net), gradients(net, images, targets)
    scales = [p.abs() + 0.01 if adaptive else torch.ones_like(p) for p in before]
    norm = math.sqrt(sum(float(((s * g).double() ** 2).sum()) for s, g in zip(scales, first, strict=True)))
    with torch.no_grad():
        for p, scale, grad in zip(net.parameters(), scales, first, strict=True):
            p.add_(rho * scale**2 * grad / norm)
    second = gradients(net, images, targets)
    with torch.no_grad():
        for p, old in zip(net.parameters(), before, strict=True):
            p.copy_(old)
    recipe = {"sam": Sam(rho, adaptive=adaptive), "accumulate": accumulate}
    sums = step_of(net, job_of(**recipe))(images, targets, 0)
    assert_moved(net, before, second)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3
    loss = functional.cross_entropy(small_net()(images), targets)  # the same as at the start
    assert float(sums[0]) == pytest.approx(BATCH * float(loss.detach()), rel=1e-5)  # at the weights, not up the slope


def test_sam_moves_the_running_statistics_once_and_by_the_weights() -> None:
    net, (images, targets) = small_net(norm=True), batch()
    norm = net[2]
    assert isinstance(norm, nn.BatchNorm1d)
    with torch.no_grad():
        seen = net[:2](images)
    step_of(net, job_of(sam=Sam(1.0)))(images, targets, 0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * seen.var(0))
    assert int(norm.num_batches_tracked or 0) == 1


@pytest.mark.parametrize(("stored", "accumulate"), [(False, 1), (True, 1), (True, 2)])
def test_a_teacher_is_mixed_with_the_labels(stored: bool, accumulate: int) -> None:
    net, (images, targets) = small_net(), batch()
    said = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(1))
    nowhere = Answers(torch.zeros(1, BATCH, 2, dtype=torch.int64), torch.zeros(1, 1, BATCH, 3))
    distill = Distill("given", temperature=2.0, hard_share=0.25)
    teaching = Teaching(distill, nowhere if stored else lambda shown: said[: len(shown)])
    before, logits = weights(net), net(images)
    wanted, soft = (said / 2).softmax(1), (logits / 2).log_softmax(1)
    divergence = (wanted * (wanted.log() - soft)).sum(1).mean()
    loss = 0.25 * functional.cross_entropy(logits, targets) + 0.75 * 4 * divergence
    grads = list(torch.autograd.grad(loss, list(net.parameters())))
    take_step = step_of(net, job_of(accumulate=accumulate), teaching)
    sums = take_step(images, targets, 0, said if stored else None)
    assert_moved(net, before, grads)
    assert float(sums[0]) == pytest.approx(BATCH * float(loss.detach()), rel=1e-5)


def test_each_group_has_its_own_rate_at_every_step() -> None:
    groups = (ParamGroup("1.*", Optimizer(2.0, momentum=0.0), Schedule("cosine", end=0.5)),)
    job = job_of(groups=groups, schedule=Schedule("linear"))
    net, (images, targets) = small_net(), batch()
    step = step_of(net, job)
    for number in range(job.steps):
        before, grads = weights(net), gradients(net, images, targets)
        step(images, targets, number)
        t = number / job.steps
        rates = [2.0 * (1 + math.cos(math.pi * min(t / 0.5, 1))) / 2, RATE * (1 - t)]
        assert step.learning_rates == pytest.approx(rates, abs=1e-12)
        for p, old, grad, lr in zip(net.parameters(), before, grads, [rates[0]] * 2 + [rates[1]] * 2, strict=True):
            torch.testing.assert_close(p.detach(), old - lr * grad, rtol=1e-5, atol=1e-6)


def test_a_plateau_lowers_the_rate_after_epochs_without_a_better_accuracy() -> None:
    net, (images, targets) = small_net(), batch()
    job = job_of(schedule=Schedule("plateau", patience=1, gamma=0.5))
    step, rates = step_of(net, job), []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.7, 0.6, 0.6):
        step.end_epoch(accuracy)
        step(images, targets, 0)
        rates += step.learning_rates
    assert rates == pytest.approx([RATE * f for f in (1, 1, 1, 0.5, 0.5, 0.5, 0.25)])
    other = step_of(small_net(), job)
    other.load_state_dict(step.state_dict())
    other(images, targets, 0)
    assert other.learning_rates == step.learning_rates


class Drawing(nn.Module):
    """Remembers what it drew in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.drawn: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        out: Tensor = self.head(x.flatten(1))
        return out


def draws(step: int, *, seed: int = 0, rank: int = 0, shuffle: int = 0, **changes: Any) -> list[float]:  # noqa: ANN401
    net = Drawing()
    take = step_of(net, toy_job(sgd_recipe(**changes), seed), rank=rank)
    torch.manual_seed(shuffle)
    for number in (shuffle, step):  # what came before has no say
        net.drawn.clear()
        take(*batch(), number)
    return net.drawn


def test_what_is_drawn_depends_on_seed_step_and_rank_alone() -> None:
    assert draws(2, shuffle=5) == draws(2, shuffle=6)
    several = [draws(2), draws(3), draws(2, seed=1), draws(2, rank=1), draws(3, rank=1)]
    assert len({tuple(found) for found in several}) == len(several)


def test_parts_draw_anew_and_sam_draws_the_same_twice() -> None:
    one, two = draws(2, accumulate=2)
    assert one != two
    assert draws(2, accumulate=2, sam=Sam(0.1)) == [one, two, one, two]


@pytest.mark.parametrize("sam", [None, Sam(0.05)])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_fp16_skips_steps_that_overflow_and_lowers_the_scale(clip_norm: float, sam: Sam | None) -> None:
    net, (images, targets) = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), batch()
    step = step_of(net, job_of(precision="fp16", clip_norm=clip_norm, sam=sam))
    before = weights(net)
    step(images * 300, targets, 0)  # gradients of about 100, times 65,536
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert step.state_dict()["scaler"]["scale"] == 2.0**15
    for number in range(1, 5):
        step(images, targets, number)
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert not any(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_fp16_moves_as_fp32_does() -> None:
    moved = []
    for precision in ("fp32", "fp16"):
        net = small_net()
        step_of(net, job_of(precision=precision, clip_norm=0.1))(*batch(), 0)
        moved.append(weights(net))
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_is_computed_in_fp32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    entropy = functional.cross_entropy

    def watched(logits: Tensor, *arguments: Any, **options: Any) -> Tensor:  # noqa: ANN401
        seen.append(logits.dtype)
        return entropy(logits, *arguments, **options)

    monkeypatch.setattr(functional, "cross_entropy", watched)
    step_of(small_net(), job_of(precision=precision))(*batch(), 0)
    assert seen == [torch.float32]


def test_frozen_parameters_stay() -> None:
    net = small_net()
    frozen = net[1]
    assert isinstance(frozen, nn.Linear)
    frozen.weight.requires_grad_(False)
    before = frozen.weight.clone()
    step_of(net, job_of(clip_norm=1.0, sam=Sam(0.1)))(*batch(), 0)
    assert torch.equal(frozen.weight, before)


def test_a_pass_over_one_image_is_refused_where_statistics_are_taken() -> None:
    job = toy_job(noisy_recipe(accumulate=8))
    with pytest.raises(UsageError, match="8 images a process in 8 parts leave fewer than two for a pass"):
        Step(prepare_network(job), job, CPU, World(), None)
    groups = toy_job(plain_recipe(accumulate=8))
    Step(prepare_network(groups), groups, CPU, World(), None)
