"""SAM against its formulas in float64, a step worked out by hand, and weights and statistics that must come back."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from training.sam import ascend, frozen_statistics, perturbations
from zoo.archs import create

SHAPES = [(4, 3, 2, 2), (4,), (2, 4), ()]


def tensors(seed: int, dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def net_and_batch(*, channels_last: bool = False) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    return net, torch.randn(8, 3, 6, 6), torch.arange(8) % 3


def backward(net: nn.Module, images: Tensor, labels: Tensor, scale: float = 1) -> Tensor:
    loss = functional.cross_entropy(net(images), labels)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def values(tensors_: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors_]


def equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_plain_step_is_rho_along_the_joint_gradient() -> None:
    weights, grads = tensors(0), tensors(1)
    norm = math.sqrt(sum(float(x) ** 2 for g in grads for x in g.flatten()))
    for step, grad in zip(perturbations(weights, grads, 0.05), grads, strict=True):
        torch.testing.assert_close(step, grad * (0.05 / norm))


@pytest.mark.parametrize("eta", [0.0, 0.01, 0.5])
def test_adaptive_step_is_that_of_the_paper(eta: float) -> None:
    weights, grads = tensors(0), tensors(1)
    flat, grad = (torch.cat([t.flatten() for t in ts]) for ts in (weights, grads))
    operator = torch.diag(flat.abs() + eta)
    expected = 0.5 * operator @ operator @ grad / torch.linalg.vector_norm(operator @ grad)
    got = torch.cat([step.flatten() for step in perturbations(weights, grads, 0.5, adaptive=True, eta=eta)])
    torch.testing.assert_close(got, expected)


@given(rho=st.floats(1e-3, 10), seed=st.integers(0, 99), adaptive=st.booleans())
def test_distance_is_rho_and_no_point_as_far_is_higher(rho: float, seed: int, adaptive: bool) -> None:
    weights, grads, others = tensors(seed), tensors(seed + 1), tensors(seed + 2)
    sizes = [w.abs() + 0.01 if adaptive else torch.ones_like(w) for w in weights]

    def length(steps: Sequence[Tensor]) -> float:
        return math.sqrt(sum(float(((e / t) ** 2).sum()) for e, t in zip(steps, sizes, strict=True)))

    def rise(steps: Sequence[Tensor]) -> float:
        return sum(float((e * g).sum()) for e, g in zip(steps, grads, strict=True))

    steps = perturbations(weights, grads, rho, adaptive=adaptive)
    assert length(steps) == pytest.approx(rho)
    assert rise(steps) >= rise([e * (rho / length(others)) for e in others]) - 1e-9


def test_adaptive_step_does_not_see_how_layers_are_scaled() -> None:
    weights, grads = tensors(0), tensors(1)
    factors = (10.0, 0.1, 3.0, 7.0)
    scaled_weights = [w * f for w, f in zip(weights, factors, strict=True)]
    scaled_grads = [g / f for g, f in zip(grads, factors, strict=True)]
    steps = perturbations(weights, grads, 0.5, adaptive=True, eta=0)
    scaled = perturbations(scaled_weights, scaled_grads, 0.5, adaptive=True, eta=0)
    for one, other, factor in zip(steps, scaled, factors, strict=True):
        torch.testing.assert_close(other, one * factor)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("exponent", [-20, -1, 1, 16, 24])
def test_a_loss_scale_changes_no_bit(exponent: int, adaptive: bool) -> None:
    weights, grads = tensors(0, torch.float32), tensors(1, torch.float32)
    plain = perturbations(weights, grads, 0.05, adaptive=adaptive)
    assert equal(perturbations(weights, [g * 2.0**exponent for g in grads], 0.05, adaptive=adaptive), plain)


@pytest.mark.parametrize("adaptive", [False, True])
def test_flat_ground_has_no_direction(adaptive: bool) -> None:
    weights = tensors(0)
    steps = perturbations(weights, [torch.zeros_like(w) for w in weights], 0.05, adaptive=adaptive)
    assert not any(step.any() for step in steps)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_hidden(bad: float) -> None:
    grads = tensors(1)
    grads[1][0] = bad
    assert perturbations(tensors(0), grads, 0.05)[1].isnan().any()


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_on_a_quadratic_is_that_by_hand(adaptive: bool) -> None:
    """Loss w^T A w / 2, whose gradient is A w: w - lr A (w + e)."""
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (weight @ matrix @ weight / 2).backward()  # type: ignore[no-untyped-call]
    with ascend([weight], rho=0.2, adaptive=adaptive):
        (weight @ matrix @ weight / 2).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    # A w = (1, -3). Plain: e = 0.2 (1, -3) / sqrt(10). Adaptive, with T = diag(1.01, 2.01): T A w = (1.01, -6.03).
    first, second = (1.01**2, -3 * 2.01**2) if adaptive else (1.0, -3.0)
    norm = math.hypot(1.01, 6.03) if adaptive else math.sqrt(10)
    at = (1 + 0.2 * first / norm, -2 + 0.2 * second / norm)
    expected = [1 - 0.1 * (3 * at[0] + at[1]), -2 - 0.1 * (at[0] + 2 * at[1])]
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
def test_inside_the_loss_is_that_of_the_moved_weights(channels_last: bool) -> None:
    net, images, labels = net_and_batch(channels_last=channels_last)
    backward(net, images, labels)
    names = [name for name, _ in net.named_parameters()]
    before = values(list(net.parameters()))
    grads = values([p.grad for p in net.parameters() if p.grad is not None])
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
    moved = {n: (w + g * 0.3 / norm).requires_grad_() for n, w, g in zip(names, before, grads, strict=True)}
    there = functional.cross_entropy(functional_call(net, moved, images), labels)
    expected = torch.autograd.grad(there, list(moved.values()))
    with ascend(net.parameters(), rho=0.3):
        assert all(p.grad is None for p in net.parameters())
        loss = backward(net, images, labels)
    assert float(loss) == pytest.approx(there.item(), rel=1e-5)
    for p, right in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, right, rtol=1e-3, atol=1e-5)
    assert equal(list(net.parameters()), before)


@given(seed=st.integers(0, 10**6), rho=st.floats(1e-4, 1e4), exponent=st.integers(-30, 30))
def test_weights_come_back_to_the_bit(seed: int, rho: float, exponent: int) -> None:
    weights = [nn.Parameter(w * 2.0**exponent) for w in tensors(seed, torch.float32)]
    weights.append(nn.Parameter(torch.tensor([-0.0, 0.0, 1e-42, 3e38])))
    for weight, grad in zip(weights, [*tensors(seed + 1, torch.float32), torch.ones(4)], strict=True):
        weight.grad = grad
    before = values(weights)
    with ascend(weights, rho):
        assert not equal(weights, before)
    assert equal(weights, before)
    assert equal([w.signbit() for w in weights], [b.signbit() for b in before])


def test_weights_and_statistics_come_back_when_the_second_pass_fails() -> None:
    net, images, labels = net_and_batch()
    backward(net, images, labels)
    before = values([*net.parameters(), *net.buffers()])
    with pytest.raises(KeyboardInterrupt), ascend(net.parameters(), 0.1), frozen_statistics(net):  # noqa: PT012
        net(images)
        assert not equal(list(net.buffers()), before[-3:])
        raise KeyboardInterrupt
    assert equal([*net.parameters(), *net.buffers()], before)


def test_overflowing_gradients_leave_nothing_behind() -> None:
    net, images, labels = net_and_batch()
    backward(net, images, labels)
    weight = next(net.parameters())
    assert weight.grad is not None
    weight.grad.fill_(math.inf)  # as from fp16's loss scale, while it is too high
    before = values([*net.parameters(), *net.buffers()])
    with ascend(net.parameters(), 0.1), frozen_statistics(net):
        assert backward(net, images, labels).isnan()
    assert equal([*net.parameters(), *net.buffers()], before)
    assert weight.grad.isnan().any(), "the optimizer's loss scaler sees it and skips the step"


def test_parameters_without_gradient_stay_and_count_nothing() -> None:
    with_grad, frozen, unused = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    with_grad.grad = torch.tensor([0.0, 3.0, 4.0])
    with ascend([frozen, with_grad, unused], rho=0.5):
        assert with_grad.tolist() == pytest.approx([1.0, 1.3, 1.4])
        assert frozen.tolist() == unused.tolist() == [1, 1, 1]


def test_a_parameter_given_twice_counts_once() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, 4.0])
    with ascend([weight, weight], rho=0.5):
        assert weight.tolist() == pytest.approx([1.3, 1.4])
    assert weight.tolist() == [1, 1]


def test_storage_stays_where_it_is() -> None:
    """Muon updates views of the filters."""
    weight = nn.Parameter(torch.ones(2, 2, 1, 1))
    view = weight.detach().flatten(1)
    weight.grad = torch.ones(2, 2, 1, 1)
    with ascend([weight], rho=2):
        assert view.tolist() == [[2, 2], [2, 2]]
    assert view.data_ptr() == weight.data_ptr()
    assert view.tolist() == [[1, 1], [1, 1]]


def test_wrong_use_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    with (
        pytest.raises(ValueError, match=r"^SAM needs gradients: call backward\(\) at the weights"),
        ascend([weight], 1),
    ):
        pass
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"^SAM's rho cannot be -1: give 0 or more$"), ascend([weight], -1):
        pass
    assert weight.tolist() == weight.grad.tolist() == [1, 1]


def test_statistics_are_frozen_while_the_batch_still_normalises() -> None:
    net, images, labels = net_and_batch()
    net(images)
    before = values(list(net.buffers()))
    outside = net(images * 3)
    for buffer, value in zip(net.buffers(), before, strict=True):
        buffer.copy_(value)
    with frozen_statistics(net):
        inside = net(images * 3)
        functional.cross_entropy(inside, labels).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(inside, outside)
    assert equal(list(net.buffers()), before)
    with frozen_statistics(net):
        net(torch.full_like(images, math.nan))
    assert equal(list(net.buffers()), before)


def test_networks_without_buffers_have_nothing_to_freeze() -> None:
    net = nn.Linear(2, 2)
    with frozen_statistics(net):
        assert net(torch.ones(1, 2)).shape == (1, 2)


def test_a_whole_step_updates_statistics_as_one_plain_pass() -> None:
    torch.manual_seed(0)
    net = create("wrn16-2", 10, depth=10, width=1)
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    net(images)
    plain = values(list(net.buffers()))
    torch.manual_seed(0)
    net = create("wrn16-2", 10, depth=10, width=1)
    backward(net, images, labels)
    with ascend(net.parameters(), rho=0.05), frozen_statistics(net):
        backward(net, images, labels)
    assert equal(list(net.buffers()), plain)


def test_a_scaled_loss_gives_the_same_step() -> None:
    grads = []
    for scale in (1.0, 2.0**16):
        net, images, labels = net_and_batch()
        backward(net, images, labels, scale)
        with ascend(net.parameters(), rho=0.05), frozen_statistics(net):
            backward(net, images, labels, scale)
        grads.append([p.grad / scale for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) == 6
    assert equal(*grads)
