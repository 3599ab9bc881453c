"""SWAG's moments against the paper's formulas in float64, and its samples' covariance against the matrix it names."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.averaging.conftest import History, batches, images, no_batches, saved, snapshot, tiny, walk
from training.averaging import Swag, recompute_statistics
from zoo.errors import MenagerieError, UsageError


class Plane(nn.Module):
    """Five weights and no BatchNorm: small enough for a covariance matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, 1))
        self.b = nn.Parameter(torch.zeros(3))


def flat(net: nn.Module) -> Tensor:
    """All trainable weights as one float64 vector."""
    return torch.cat([p.detach().double().flatten() for p in net.parameters() if p.requires_grad])


def follow(path: Tensor, rank: int, **options: float) -> tuple[Plane, Swag]:
    """Move the five weights along the rows of `path` `[T, 5]`."""
    net = Plane()
    swag = Swag(net, rank=rank, **options)  # type: ignore[arg-type]
    for step, row in enumerate(path, 1):
        net.a.data.copy_(row[:2, None])
        net.b.data.copy_(row[2:])
        swag.update(net, step)
    return net, swag


def wander(steps: int) -> Tensor:
    """A correlated walk, far from zero."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    return 4 + torch.randn(steps, 5, generator=generator, dtype=torch.float64) @ mix


def covariance(path: Tensor, rank: int) -> Tensor:
    """Algorithm 1 to the letter: running moments, deviations from the mean so far, 1/2 diagonal + 1/2 low rank."""
    mean, square = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    columns: list[Tensor] = []
    for n, weights in enumerate(path):
        mean = (n * mean + weights) / (n + 1)
        square = (n * square + weights**2) / (n + 1)
        columns = [*columns, weights - mean][-rank:]
    deviations = torch.stack(columns, 1)
    return torch.diag(square - mean**2) / 2 + deviations @ deviations.T / (2 * (len(columns) - 1))


@pytest.mark.parametrize(("steps", "rank"), [(4, 20), (15, 4), (2, 5)])
def test_samples_have_the_mean_and_covariance_of_the_paper(steps: int, rank: int) -> None:
    path = wander(steps)
    net, swag = follow(path, rank)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([flat(swag.sample(net, no_batches, generator)) for _ in range(4000)])
    expected = covariance(path, rank)
    spread = expected.diagonal().sqrt()
    assert ((draws.mean(0) - path.mean(0)) / spread).abs().max() < 0.08  # 5 standard errors
    centred = draws - path.mean(0)
    got = centred.T @ centred / len(draws)
    # In units of each pair's standard deviations, the standard error is 1.4 / sqrt(4000) = 0.022 at most.
    assert ((got - expected) / torch.outer(spread, spread)).abs().max() < 0.11
    correlated = expected - torch.diag(expected.diagonal())
    assert (correlated / torch.outer(spread, spread)).abs().max() > 0.2, "the low rank is seen"


@pytest.mark.parametrize(("steps", "rank"), [(2, 2), (5, 20), (6, 6), (17, 3)])
def test_covariance_from_the_state_is_exact(steps: int, rank: int) -> None:
    path = wander(steps)
    _, swag = follow(path, rank)
    state = swag.state_dict()

    def joined(parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].double().flatten() for name in ("a", "b")])

    deviations = torch.stack([joined(d) for d in state["deviations"]], 1)
    low = deviations @ deviations.T / (deviations.shape[1] - 1)
    got = torch.diag(joined(state["squares"]) / state["updates"]) / 2 + low / 2
    torch.testing.assert_close(got, covariance(path, rank), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(joined(state["averages"]), path.mean(0), rtol=1e-6, atol=1e-6)


def test_small_variances_of_large_weights_are_not_lost() -> None:
    path = 100 + 1e-3 * wander(12)
    _, swag = follow(path, 5)
    state = swag.state_dict()
    got = torch.cat([state["squares"][name].double().flatten() for name in ("a", "b")]) / 12
    exact = path.float().double().var(0, unbiased=False)  # float32 weights are spaced by 8e-6 here
    torch.testing.assert_close(got, exact, rtol=0.05, atol=0)
    naive = (path.float() ** 2).mean(0) - path.float().mean(0) ** 2
    assert ((naive.double() - exact).abs() > exact).any(), "the difference of two means would not do"


@pytest.mark.parametrize("scale", [0.0, 0.125, 2.0])
def test_scale_multiplies_the_covariance(scale: float) -> None:
    net, swag = follow(wander(6), 4)
    mean = flat(swag.average(net, no_batches))
    once, scaled = (flat(swag.sample(net, no_batches, torch.Generator().manual_seed(5), scale=s)) for s in (0.5, scale))
    torch.testing.assert_close(scaled - mean, (once - mean) * math.sqrt(scale / 0.5), rtol=1e-4, atol=1e-5)


def test_variance_has_a_floor() -> None:
    still = torch.ones(3, 5, dtype=torch.float64)
    net, swag = follow(still, 2)
    assert torch.equal(flat(swag.sample(net, no_batches, torch.Generator().manual_seed(0))), still[0])
    net, swag = follow(still, 2, variance_floor=0.04)
    draws = torch.stack([flat(swag.sample(net, no_batches, torch.Generator().manual_seed(s))) for s in range(500)])
    assert float(draws.var()) == pytest.approx(0.04 / 2, rel=0.15)


def test_average_is_that_of_swa() -> None:
    net = tiny()
    swag = Swag(net, rank=2, every=2)
    history = walk(net, swag, 1, 8)
    got = snapshot(swag.average(net, batches()))
    for name in ("conv.weight", "head.bias", "norm.bias"):
        mean = sum((history[step - 1][name] for step in (2, 4, 6, 8)), torch.zeros(())) / 4
        torch.testing.assert_close(got[name], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_samples_are_whole_networks(channels_last: bool) -> None:
    net = tiny(channels_last=channels_last)
    swag = Swag(net, rank=3)
    history = walk(net, swag, 1, 5)
    before = snapshot(net.train())
    sample = swag.sample(net, batches(), torch.Generator().manual_seed(1))
    got = snapshot(sample)
    assert not sample.training
    for name in ("deep.weight", "constant"):
        assert torch.equal(got[name], history[-1][name]), "frozen"
    assert torch.equal(got["same.weight"], got["head.weight"])
    assert not torch.allclose(got["conv.weight"], snapshot(swag.average(net, batches()))["conv.weight"])
    assert sample(images(2)).shape == (2, 2)
    recompute_statistics(sample, batches())
    assert all(torch.equal(value, got[name]) for name, value in snapshot(sample).items()), "statistics were its own"
    assert all(torch.equal(value, before[name]) for name, value in snapshot(net).items())


def test_layout_of_the_weights_does_not_matter() -> None:
    drawn: History = []
    for channels_last in (False, True):
        net = tiny(channels_last=channels_last)
        swag = Swag(net, rank=3)
        for step in range(1, 5):  # by index, not by what a convolution of another layout rounds to
            for p in (net.conv.weight, net.head.weight):
                p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            swag.update(net, step)
        drawn.append(snapshot(swag.sample(net, batches(), torch.Generator().manual_seed(1))))
    for name in ("conv.weight", "head.weight"):
        torch.testing.assert_close(drawn[0][name], drawn[1][name])


def test_draws_come_from_the_generator_alone() -> None:
    net, swag = follow(wander(6), 4)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(7)
    first, second = (flat(swag.sample(net, no_batches, generator)) for _ in range(2))
    assert torch.equal(first, flat(swag.sample(net, no_batches, torch.Generator().manual_seed(7))))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_are_numbered_and_repeatable() -> None:
    net = tiny()
    swag = Swag(net, draws=2)
    walk(net, swag, 1, 3)
    one, again, other = (swag.samples(net, batches(), seed) for seed in (1, 1, 2))
    assert list(one) == ["sample1", "sample2"]
    weights = [flat(drawn) for run in (one, again, other) for drawn in run.values()]
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[3])
    assert len({tuple(w.tolist()) for w in weights}) == 4


@pytest.mark.parametrize("stop", [0, 1, 3, 7, 9])
def test_stopping_anywhere_changes_no_bit(stop: int) -> None:
    net, same = tiny(channels_last=True), tiny(channels_last=True)
    whole, begun = (Swag(n, rank=3, start=2) for n in (net, same))
    walk(net, whole, 1, 10)
    walk(same, begun, 1, stop)
    resumed = Swag(same, rank=3, start=2)
    resumed.load_state_dict(saved(begun.state_dict()))
    walk(same, resumed, stop + 1, 10)
    expected, got = (
        snapshot(s.sample(n, batches(), torch.Generator().manual_seed(4))) for s, n in ((whole, net), (resumed, same))
    )
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_one_snapshot_is_not_enough() -> None:
    net, swag = follow(wander(1), 4)
    assert not swag.ready
    for make in (swag.average, lambda net, b: swag.sample(net, b, torch.Generator())):
        with pytest.raises(MenagerieError, match=r"^too few snapshots were averaged \(1\): "):
            make(net, no_batches)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^SWAG of rank 1 is not possible: give 2 or more$"):
        Swag(Plane(), rank=1)
    net, swag = follow(wander(3), 4)
    with pytest.raises(UsageError, match=r"^SWAG's scale cannot be -1: give 0 or more$"):
        swag.sample(net, no_batches, torch.Generator(), scale=-1)
