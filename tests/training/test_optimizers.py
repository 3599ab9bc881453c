"""SGD, AdamW and Muon against slow twins in float64, and groups against the parameters they name."""

import copy
import math
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.optimizers import FilterMuon, build_optimizers
from training.recipe import Optimizer, ParamGroup, Schedule
from zoo.errors import UsageError

SHAPES = [(8, 3, 3, 3), (6, 6, 3, 3), (12, 5, 2, 2)]  # none is taller than wide


def filters(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def newton_schulz(matrix: Tensor, steps: int = 3) -> Tensor:
    """Quintic iteration of Jordan's "Muon" (2024): X <- a X + b (X X^T) X + c (X X^T)^2 X, from unit Frobenius norm."""
    x = matrix.double() / math.sqrt(float((matrix.double() ** 2).sum()))
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def slow_muon(
    weight: Tensor, grads: list[Tensor], lr: float, momentum: float, weight_decay: float, *, normalize: bool
) -> Tensor:
    """Airbench's `Muon.step` (KellerJordan/cifar10-airbench at 096d14d) with Nesterov momentum, a filter at a time."""
    out = weight.detach().double().clone()
    velocity = torch.zeros_like(out)
    for grad in grads:
        velocity = momentum * velocity + grad.double()
        ahead = grad.double() + momentum * velocity
        if normalize:
            out *= math.sqrt(len(out)) / math.sqrt(float((out**2).sum()))
        update = newton_schulz(ahead.reshape(len(ahead), -1)).reshape(out.shape)
        out = (1 - lr * weight_decay) * out - lr * update
    return out


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.6, 0.0), (0.9, 0.5), (0.0, 0.0)])
def test_three_steps_equal_the_slow_twin(momentum: float, weight_decay: float, normalize: bool) -> None:
    lr, weights = 0.3, filters(SHAPES)
    grads = [[torch.randn(w.shape, generator=torch.Generator().manual_seed(i)) for i in range(3)] for w in weights]
    expected = [
        slow_muon(w, g, lr, momentum, weight_decay, normalize=normalize) for w, g in zip(weights, grads, strict=True)
    ]
    optimizer = FilterMuon(weights, lr, momentum, weight_decay, normalize=normalize)
    for step in range(3):
        for weight, by_step in zip(weights, grads, strict=True):
            weight.grad = by_step[step].clone()
        optimizer.step()
    for weight, twin in zip(weights, expected, strict=True):
        # An update has norm lr * sqrt(out) or so, and bf16 keeps 8 bits of it.
        error = float((weight.detach().double() - twin).norm()) / (lr * math.sqrt(len(weight)))
        assert error < 0.03


def test_filters_taller_than_wide_move_further_by_the_root_of_their_shape() -> None:
    (weight,) = filters([(32, 3, 1, 1)])
    grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    optimizer = FilterMuon([weight], 0.3, 0.6, 0.0, normalize=False)
    scaled = 0.3 * math.sqrt(32 / 3)
    expected = slow_muon(weight, [grad, grad], scaled, 0.6, 0.0, normalize=False)
    for _ in range(2):
        weight.grad = grad.clone()
        optimizer.step()
    assert float((weight.detach().double() - expected).norm()) / (scaled * math.sqrt(3)) < 0.03


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (16, 4, 2, 2)])
def test_update_is_nearly_orthogonal_along_the_gradient(shape: tuple[int, ...]) -> None:
    (weight,) = filters([shape])
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before = weight.detach().clone()
    weight.grad = grad.clone()
    FilterMuon([weight], 1.0, 0.6, 0.0, normalize=False).step()
    update = (before - weight.detach()).flatten(1)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.5
    assert singular.max() < 1.5
    assert torch.linalg.svdvals(grad.flatten(1)).max() > 2  # of the gradient it was not so
    # U S' V^T of the gradient's own U and V: on that basis the update is diagonal.
    u, _, v = torch.linalg.svd(grad.flatten(1), full_matrices=False)
    core = u.T @ update @ v.T
    assert (core - core.diagonal().diag()).abs().max() < 0.05


def test_update_does_not_depend_on_the_gradients_scale() -> None:
    grad = torch.randn((8, 3, 3, 3), generator=torch.Generator().manual_seed(1))
    results = []
    for scale in (1e-3, 1.0, 1e3):
        (weight,) = filters([(8, 3, 3, 3)])
        weight.grad = grad * scale
        FilterMuon([weight], 0.3, 0.6, 0.0, normalize=False).step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], atol=5e-3, rtol=0)
    torch.testing.assert_close(results[2], results[1], atol=5e-3, rtol=0)


def test_normalize_sets_the_frobenius_norm_before_the_update() -> None:
    weights = filters(SHAPES)
    directions = [w.detach() / w.detach().norm() for w in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    FilterMuon(weights, 0.0, 0.6, 0.0, normalize=True).step()
    for weight, direction in zip(weights, directions, strict=True):
        assert float(weight.detach().norm()) == pytest.approx(math.sqrt(len(weight)), rel=1e-5)
        torch.testing.assert_close(weight.detach() / weight.detach().norm(), direction)


def test_channels_last_gradients_are_read_by_index() -> None:
    grad = torch.randn((8, 4, 3, 3), generator=torch.Generator().manual_seed(1))
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        (weight,) = filters([(8, 4, 3, 3)])
        weight.grad = grad.clone(memory_format=memory_format)
        FilterMuon([weight], 0.3, 0.6, 0.0, normalize=True).step()
        results.append(weight.detach())
    assert torch.equal(*results)


def test_zero_grad_clears_the_filters() -> None:
    weights = filters(SHAPES)
    optimizer = FilterMuon(weights, 0.3, 0.6, 0.0, normalize=False)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    assert all(w.grad is None for w in weights)
    before = [w.detach().clone() for w in weights]
    optimizer.step()
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_state_round_trip_goes_on_as_if_nothing_had_happened() -> None:
    def step(optimizer: FilterMuon, weights: list[nn.Parameter], seed: int) -> None:
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    weights = filters(SHAPES)
    optimizer = FilterMuon(weights, 0.3, 0.6, 0.0, normalize=True)
    step(optimizer, weights, 1)
    copies = [nn.Parameter(w.detach().clone()) for w in weights]
    other = FilterMuon(copies, 9.0, 0.1, 0.0, normalize=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, weights, 2)
    step(other, copies, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(8, 4, 3, 3).to(memory_format=torch.channels_last),
        torch.zeros(4, 8, 3, 3).transpose(0, 1),
        torch.zeros(8, 4),
        torch.zeros(8),
    ],
    ids=["channels-last", "transposed", "matrix", "vector"],
)
def test_only_contiguous_filters_are_taken(weight: Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape("contiguous filters of shape [out, in, kh, kw]")):
        FilterMuon([nn.Parameter(weight)], 0.1, 0.6, 0.0, normalize=False)


def test_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="no closure"):
        FilterMuon(filters(SHAPES), 0.1, 0.6, 0.0, normalize=False).step(lambda: 0.0)


def slow_sgd(weight: list[float], grads: list[list[float]], own: Optimizer) -> list[float]:
    """SGD with Nesterov momentum (I. Sutskever et al., 2013, as torch.optim.SGD writes it) and coupled weight decay."""
    out, velocity = list(weight), [0.0] * len(weight)
    for grad in grads:
        for i, g in enumerate(grad):
            slope = g + own.weight_decay * out[i]
            velocity[i] = own.momentum * velocity[i] + slope
            out[i] -= own.lr * (slope + own.momentum * velocity[i])
    return out


def slow_adamw(weight: list[float], grads: list[list[float]], own: Optimizer) -> list[float]:
    """I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2."""
    out, first, second = list(weight), [0.0] * len(weight), [0.0] * len(weight)
    for step, grad in enumerate(grads, 1):
        for i, g in enumerate(grad):
            first[i] = own.momentum * first[i] + (1 - own.momentum) * g
            second[i] = own.beta2 * second[i] + (1 - own.beta2) * g**2
            mean, square = first[i] / (1 - own.momentum**step), second[i] / (1 - own.beta2**step)
            out[i] -= own.lr * (mean / (math.sqrt(square) + 1e-8) + own.weight_decay * out[i])
    return out


@pytest.mark.parametrize(
    ("own", "twin"),
    [
        (Optimizer(0.1), slow_sgd),
        (Optimizer(0.1, momentum=0.0), slow_sgd),
        (Optimizer(0.3, momentum=0.85, weight_decay=0.1), slow_sgd),
        (Optimizer(0.01, "adamw"), slow_adamw),
        (Optimizer(0.1, "adamw", momentum=0.8, beta2=0.95, weight_decay=0.5), slow_adamw),
        (Optimizer(0.1, "adamw", momentum=0.0, beta2=0.0), slow_adamw),
    ],
)
def test_four_steps_equal_the_slow_twin(
    own: Optimizer, twin: Callable[[list[float], list[list[float]], Optimizer], list[float]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Module()
    weight = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
    net.register_parameter("weight", weight)
    grads = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(4)]
    expected = twin(weight.tolist(), [g.tolist() for g in grads], own)
    ((_, optimizer),) = build_optimizers(net, [ParamGroup("*", own, Schedule())])
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


def test_built_muon_is_set_as_its_group_says() -> None:
    (weight,) = filters([(6, 6, 3, 3)])
    grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    net = nn.Conv2d(6, 6, 3, bias=False)
    net.weight = nn.Parameter(weight.detach().clone())
    own = Optimizer(0.3, "muon", momentum=0.6, weight_decay=0.5, normalize=True)
    ((_, optimizer),) = build_optimizers(net, [ParamGroup("*", own, Schedule())])
    twin = FilterMuon([weight], 0.3, 0.6, 0.5, normalize=True)
    for _ in range(2):
        net.weight.grad, weight.grad = grad.clone(), grad.clone()
        optimizer.step()
        twin.step()
    assert torch.equal(net.weight, weight)


def small_net() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.requires_grad_(False)
    return net


def group(params: str, lr: float = 0.1, **changes: float) -> ParamGroup:
    return ParamGroup(params, Optimizer(lr, **changes), Schedule("linear"))  # type: ignore[arg-type]  # numbers only


def held(net: nn.Module, groups: Sequence[ParamGroup]) -> list[list[str]]:
    """Return the names of the parameters that each built optimizer moves."""
    named = {p.data_ptr(): name for name, p in net.named_parameters()}
    return [
        [named[p.data_ptr()] for g in optimizer.param_groups for p in g["params"]]
        for _, optimizer in build_optimizers(net, groups)
    ]


def test_each_trainable_parameter_is_in_the_first_group_that_matches() -> None:
    net = small_net()
    muon = ParamGroup("0.weight", Optimizer(0.2, "muon", 0.6, weight_decay=0.1, normalize=True), Schedule())
    groups = [muon, group("*.bias", 0.3, momentum=0.0, weight_decay=0.2), group("*", 0.4, momentum=0.8)]
    assert held(net, groups) == [["0.weight"], ["0.bias", "1.bias", "3.bias"], ["3.weight"]]
    built = build_optimizers(net, groups)
    assert [group for group, _ in built] == groups
    optimizers = [optimizer for _, optimizer in built]
    assert [type(o) for o in optimizers] == [FilterMuon, torch.optim.SGD, torch.optim.SGD]
    settings_ = [[o.param_groups[0][k] for k in ("lr", "momentum", "weight_decay", "nesterov")] for o in optimizers]
    assert settings_ == [[0.2, 0.6, 0.1, True], [0.3, 0.0, 0.2, False], [0.4, 0.8, 0.0, True]]


def test_adamw_is_set_as_its_group_says() -> None:
    own = Optimizer(0.01, "adamw", 0.8, 0.99, 0.3)
    ((_, optimizer),) = build_optimizers(small_net(), [ParamGroup("*", own, Schedule())])
    assert type(optimizer) is torch.optim.AdamW
    assert [optimizer.param_groups[0][k] for k in ("lr", "betas", "weight_decay")] == [0.01, (0.8, 0.99), 0.3]


NAMES = [name for name, p in small_net().named_parameters() if p.requires_grad]


@given(st.lists(st.sampled_from([*NAMES, "*.bias", "*.weight", "?.*", "0.*", "[01].*", "*"]), max_size=4))
def test_groups_partition_the_parameters(patterns: list[str]) -> None:
    expected: list[list[str]] = []
    left = list(NAMES)
    for pattern in (*patterns, "*"):
        expected.append([name for name in left if fnmatchcase(name, pattern)])
        left = [name for name in left if name not in expected[-1]]
    groups = [group(pattern) for pattern in (*patterns, "*")]
    if all(expected[:-1]):
        assert held(small_net(), groups) == [names for names in expected if names]
    else:
        empty = patterns[expected.index([])]
        with pytest.raises(UsageError, match=f"^{re.escape(f'[[groups]] params = {empty!r} matches no parameter')}"):
            build_optimizers(small_net(), groups)


def test_rest_may_be_empty() -> None:
    groups = [group("*"), group("*")]
    assert [g for g, _ in build_optimizers(small_net(), groups)] == groups[:1]


@pytest.mark.parametrize("pattern", ["convolution.*", "1.weight"])  # the latter is frozen
def test_group_without_a_parameter_is_named(pattern: str) -> None:
    message = f"[[groups]] params = {pattern!r} matches no parameter that is left"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build_optimizers(small_net(), [group(pattern), group("*")])


def test_muon_for_other_than_filters_says_where() -> None:
    muon = ParamGroup("*", Optimizer(0.1, "muon"), Schedule())
    with pytest.raises(UsageError, match=r"^\[optimizer\]: Muon needs contiguous filters of shape"):
        build_optimizers(small_net(), [muon])
    with pytest.raises(UsageError, match=r"^\[\[groups\]\] params = '\*': Muon needs contiguous filters of shape"):
        build_optimizers(small_net(), [muon, group("*")])
