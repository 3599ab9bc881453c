"""The distillation loss against a plain formula in float64, and its gradient against the one worked out by hand."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.losses import distillation_loss, hits

rows = st.integers(1, 4).flatmap(
    lambda classes: st.lists(
        st.tuples(*[st.lists(st.floats(-10, 10), min_size=classes, max_size=classes)] * 2), min_size=1, max_size=3
    )
)


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    top = max(logits)
    exponentials = [math.exp((z - top) / temperature) for z in logits]
    return [x / math.fsum(exponentials) for x in exponentials]


def slow_loss(student: Sequence[Sequence[float]], teacher: Sequence[Sequence[float]], temperature: float) -> float:
    """T^2 times the mean over images of the sum over classes of p log(p / q), in float64."""
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        q, p = softmax(own, temperature), softmax(other, temperature)
        total += math.fsum(b * math.log(b / a) for a, b in zip(q, p, strict=True) if b > 0)
    return temperature**2 * total / len(student)


def batch(seed: int, images: int = 5, classes: int = 7) -> Tensor:
    return 3 * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed))


@given(rows=rows, temperature=st.floats(0.5, 20))
def test_equals_the_plain_formula(rows: list[tuple[list[float], list[float]]], temperature: float) -> None:
    student, teacher = ([row[i] for row in rows] for i in (0, 1))
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    # Single precision loses a few 1e-7 of the softened logits, and the loss is scaled up by T^2.
    assert float(found) == pytest.approx(slow_loss(student, teacher, temperature), rel=1e-4, abs=2e-6 * temperature**2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
def test_is_exactly_zero_where_the_answers_agree(temperature: float) -> None:
    logits = batch(0).requires_grad_()
    loss = distillation_loss(logits, logits, temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6 * temperature


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_is_above_zero_where_they_differ(temperature: float) -> None:
    assert float(distillation_loss(batch(0), batch(1), temperature)) > 0.1


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_gradient_is_t_times_the_difference_of_softened_answers(temperature: float) -> None:
    logits, teacher = batch(0).requires_grad_(), batch(1)
    distillation_loss(logits, teacher, temperature).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    for grad, own, other in zip(logits.grad.tolist(), logits.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(own, temperature), softmax(other, temperature)
        assert grad == pytest.approx([temperature * (a - b) / 5 for a, b in zip(q, p, strict=True)], abs=1e-6)


def test_gradient_tends_to_the_difference_of_logits_as_the_temperature_grows() -> None:
    """Hinton et al., equation 4: (z - v) / (N C) for logits of zero mean, whatever the temperature."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in (batch(0), batch(1)))
    expected = (student - teacher) / (5 * 7)
    norms = []
    for temperature in (100.0, 300.0, 1000.0):
        logits = student.clone().requires_grad_()
        distillation_loss(logits, teacher, temperature).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, expected, rtol=0.05, atol=2e-3)
        norms.append(float(logits.grad.norm()))
    assert max(norms) < 1.02 * min(norms)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_log_probabilities_are_as_good_as_logits(temperature: float) -> None:
    teacher = batch(1)
    by_logits = distillation_loss(batch(0), teacher, temperature)
    torch.testing.assert_close(distillation_loss(batch(0), teacher.log_softmax(1), temperature), by_logits)


def test_teacher_may_rule_classes_out() -> None:
    teacher = torch.tensor([[0.6, 0.4, 0.0], [1.0, 0.0, 0.0]]).log()
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, -0.5, 0.0]], requires_grad=True)
    loss = distillation_loss(logits, teacher, 1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    q = [softmax(row, 1.0) for row in logits.tolist()]
    expected = (0.6 * math.log(0.6 / q[0][0]) + 0.4 * math.log(0.4 / q[0][1]) - math.log(q[1][0])) / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_no_gradient_goes_to_the_teacher() -> None:
    logits, teacher = batch(0).requires_grad_(), batch(1).requires_grad_()
    distillation_loss(logits, teacher, 2.0).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_single_precision(dtype: torch.dtype) -> None:
    student, teacher = batch(0).to(dtype), batch(1).to(dtype)
    found = distillation_loss(student, teacher, 2.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(slow_loss(student.tolist(), teacher.tolist(), 2.0), rel=1e-5)


def test_hits_counts_labels() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0], [0.0, 1.0, 5.0]])
    assert hits(logits, torch.tensor([1, 0, 1])).shape == ()
    assert int(hits(logits, torch.tensor([1, 0, 1]))) == 2
    assert int(hits(logits, torch.tensor([0, 1, 1]))) == 0


def test_hits_counts_the_larger_part_of_a_mixture() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    mixtures = torch.tensor([[0.3, 0.7, 0.0], [0.4, 0.0, 0.6]])
    assert int(hits(logits, mixtures)) == 1
    labels = torch.tensor([1, 2])
    assert hits(logits, labels) == hits(logits, torch.nn.functional.one_hot(labels, 3).float())
