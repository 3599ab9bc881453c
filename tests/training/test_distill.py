"""A run's loss with a teacher, against the mixture worked out here; and the network's past as its own teacher."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.conftest import fastnet_recipe, toy_job
from training.augment import Answers
from training.distill import Teaching, check_teacher
from training.recipe import Distill
from zoo.card import Card
from zoo.errors import UsageError

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4


def small_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4))


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 sum_c p log(p / q), the mean over images, in float64."""
    p = (teacher.detach().double() / temperature).softmax(1)
    q = (logits.double() / temperature).softmax(1)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def hard_loss(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, LABELS)


@pytest.mark.parametrize("hard_share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.7])
def test_given_teachers_share_is_constant(hard_share: float, t: float) -> None:
    net, teacher = small_net(0), small_net(1).eval()
    teaching = Teaching(Distill(temperature=3.0, hard_share=hard_share), teacher)
    logits = net(IMAGES)
    loss = teaching.loss(hard_loss(logits), logits, IMAGES, t)
    expected = hard_share * hard_loss(logits).double() + (1 - hard_share) * divergence(logits, teacher(IMAGES), 3.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_given_teacher_gets_the_students_images_and_no_gradient() -> None:
    net, teacher = small_net(0), small_net(1).eval()
    seen: list[Tensor] = []

    def answer(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(images)
        logits: Tensor = teacher(images)
        return logits

    teaching = Teaching(Distill(), answer)
    logits = net(IMAGES)
    teaching.loss(hard_loss(logits), logits, IMAGES, 0.5).backward()  # type: ignore[no-untyped-call]
    assert [image is IMAGES for image in seen] == [True]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_given_teacher_stays_when_an_epoch_ends() -> None:
    net, teacher = small_net(0), small_net(1).eval()
    teaching = Teaching(Distill(hard_share=0.0), teacher)
    logits = net(IMAGES)
    before = teaching.loss(hard_loss(logits), logits, IMAGES, 0.5)
    teaching.end_epoch(net)
    assert torch.equal(teaching.loss(hard_loss(logits), logits, IMAGES, 0.5), before)
    assert teaching.state_dict() == {}


def test_first_epoch_of_its_own_teacher_is_the_labels_alone() -> None:
    teaching = Teaching(Distill(teacher="self", hard_share=0.2), None)
    logits = small_net(0)(IMAGES)
    hard = hard_loss(logits)
    assert teaching.loss(hard, logits, IMAGES, 0.5) is hard
    assert teaching.state_dict() == {}


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_its_own_share_grows_linearly_over_the_run(t: float) -> None:
    net = small_net(0)
    teaching = Teaching(Distill(teacher="self", temperature=2.0, hard_share=0.2), None)
    past = copy.deepcopy(net).eval()
    teaching.end_epoch(net)
    logits = net(IMAGES)
    hard = hard_loss(logits)
    expected = hard.double() + 0.8 * t * (divergence(logits, past(IMAGES), 2.0) - hard.double())
    torch.testing.assert_close(teaching.loss(hard, logits, IMAGES, t).double(), expected, rtol=1e-5, atol=1e-6)


def test_its_own_teacher_is_the_network_as_it_was_in_eval_mode() -> None:
    net = small_net(0).train()
    teaching = Teaching(Distill(teacher="self", hard_share=0.0), None)
    teaching.end_epoch(net)
    assert net.training
    past = copy.deepcopy(net).eval()
    with torch.no_grad():  # training goes on, and moves weights and statistics
        for p in net.parameters():
            p.add_(torch.randn_like(p))
        net(IMAGES + 1)
    statistics = copy.deepcopy(past.state_dict())
    logits = net(IMAGES).detach()
    expected = divergence(logits, past(IMAGES), 1.0)
    torch.testing.assert_close(
        teaching.loss(hard_loss(logits), logits, IMAGES, 1.0).double(), expected, rtol=1e-5, atol=0
    )
    after = teaching.state_dict()["past"]
    assert all(torch.equal(after[key], value) for key, value in statistics.items())
    teaching.end_epoch(
        net
    )  # the next epoch's teacher is the network as it is now, whose answers are these in eval mode
    logits = net.eval()(IMAGES).detach()
    assert float(teaching.loss(hard_loss(logits), logits, IMAGES, 1.0)) == 0


def test_its_own_teacher_takes_no_gradient() -> None:
    net = small_net(0)
    net(IMAGES).sum().backward()
    teaching = Teaching(Distill(teacher="self", hard_share=0.0), None)
    teaching.end_epoch(net)
    logits = net(IMAGES + 1)
    teaching.loss(hard_loss(logits), logits, IMAGES, 1.0).backward()  # type: ignore[no-untyped-call]
    assert teaching._past is not None
    assert not any(p.requires_grad for p in teaching._past.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_state_round_trip_teaches_the_same() -> None:
    distill = Distill(teacher="self", hard_share=0.3)
    teaching, net = Teaching(distill, None), small_net(0)
    teaching.end_epoch(net)
    state: dict[str, Any] = copy.deepcopy(teaching.state_dict())
    now = small_net(1)  # training went on
    other = Teaching(distill, None)
    other.load_state_dict(state, now)
    logits = now(IMAGES)
    hard = hard_loss(logits)
    expected = teaching.loss(hard, logits, IMAGES, 0.6)
    assert torch.equal(other.loss(hard, logits, IMAGES, 0.6), expected)
    with torch.no_grad():
        next(now.parameters()).zero_()
    assert torch.equal(other.loss(hard, logits, IMAGES, 0.6), expected)


def test_state_of_the_first_epoch_has_no_past() -> None:
    teaching = Teaching(Distill(teacher="self"), None)
    teaching.load_state_dict({}, small_net(0))
    logits = small_net(0)(IMAGES)
    hard = hard_loss(logits)
    assert teaching.loss(hard, logits, IMAGES, 0.5) is hard


@pytest.mark.parametrize(
    ("kind", "teacher", "message"),
    [
        ("given", None, "the recipe needs a teacher: give --teacher NAME"),
        ("self", small_net(1), "the recipe's network is its own teacher: leave --teacher out"),
    ],
)
def test_teacher_and_recipe_must_fit(kind: Any, teacher: nn.Module | None, message: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        Teaching(Distill(teacher=kind), teacher)


@pytest.mark.parametrize("hard_share", [0.0, 0.3])
def test_stored_answers_are_a_given_teachers(hard_share: float) -> None:
    net, teacher = small_net(0), small_net(1).eval()
    distill = Distill(temperature=2.0, hard_share=hard_share)
    logits = net(IMAGES)
    stored = Teaching(distill, Answers(torch.zeros(1, 6, 2, dtype=torch.int64), torch.zeros(1, 1, 6, 4)))
    found = stored.loss(hard_loss(logits), logits, IMAGES, 0.4, teacher(IMAGES).detach())
    assert torch.equal(found, Teaching(distill, teacher).loss(hard_loss(logits), logits, IMAGES, 0.4))
    stored.end_epoch(net)
    assert stored.state_dict() == {}


def test_stored_answers_are_for_a_recipe_that_distils_from_a_given_teacher() -> None:
    answers = Answers(torch.zeros(1, 6, 2, dtype=torch.int64), torch.zeros(1, 1, 6, 4))
    with pytest.raises(UsageError, match="is its own teacher"):
        Teaching(Distill(teacher="self"), answers)


def test_who_may_teach_and_who_not() -> None:
    job = toy_job(fastnet_recipe())
    known = {"images": 34, "fingerprint": "1" * 64, "held_out": job.val.fingerprint}
    card = Card("big", "fastnet", "colours", job.part.classes, *job.stats, job.input_size, trained_on=known)
    check_teacher(card, job, "--teacher 'big'")
    for changes, said in (
        ({"classes": ("a", "b"), "dataset": "mine"}, "classifies mine, not the classes of colours"),
        ({"input_size": (32, 24)}, "takes images of 32 x 24 pixels, not of 26 x 26"),
        ({"trained_on": None}, "did not hold out this validation split, or does not say so"),
        ({"trained_on": {**known, "held_out": "3" * 64}}, "did not hold out this validation split"),
    ):
        with pytest.raises(UsageError) as caught:
            check_teacher(replace(card, **changes), job, "--teacher 'big'")
        assert str(caught.value).startswith(f"--teacher 'big' {said}")
