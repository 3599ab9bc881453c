"""Soups against explicit means, torch's own `update_bn`, and algorithm 1 of the paper in plain numbers."""

import copy
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tests.training.averaging.conftest import Tiny, batches, no_batches, snapshot, step_once, tiny
from tests.training.conftest import CPU, fastnet_recipe, fit, toy_job, toy_split
from training.averaging.soup import (
    Ingredient,
    cook,
    greedy_soup,
    mean_weights,
    plain_batches,
    statistics_images,
    uniform_soup,
)
from training.loop import Trained
from training.recipe import Schedule
from zoo import checkpoint
from zoo.data import MEAN_STD
from zoo.errors import MenagerieError, UsageError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def walked(steps: int) -> Tiny:
    """One start, and as many steps from it."""
    net = tiny()
    for step in range(1, steps + 1):
        step_once(net, step)
    return net.eval()


def ingredient(name: str, net: nn.Module, accuracy: float = 0.5) -> Ingredient:
    return Ingredient(name, accuracy, lambda: net)


def unjudged(_: nn.Module) -> float:
    return 0.25


def test_mean_is_that_of_every_tensor() -> None:
    nets = [walked(steps) for steps in (1, 3, 6)]
    states = [net.state_dict() for net in nets]
    found = mean_weights(iter(nets))
    assert found.keys() == states[0].keys()
    for name, value in found.items():
        stack = np.stack([state[name].numpy() for state in states])
        if name.endswith("num_batches_tracked"):
            assert (stack.tolist(), int(value)) == ([1, 3, 6], 1)
        else:
            np.testing.assert_allclose(value.numpy(), stack.astype(np.float64).mean(0), rtol=1e-15)


def test_no_order_of_fp16_weights_changes_a_bit() -> None:
    nets = [walked(steps).half() for steps in (1, 2, 5, 7)]
    one, other = mean_weights(nets), mean_weights(nets[::-1])
    assert all(torch.equal(one[name], other[name]) for name in one if not name.endswith("num_batches_tracked"))


def test_mean_of_equal_networks_is_the_network() -> None:
    net = walked(2)
    found = mean_weights([net, walked(2), walked(2)])
    assert all(torch.equal(found[name].to(value.dtype), value) for name, value in net.state_dict().items())


def test_cooked_weights_are_rounded_and_statistics_are_those_of_the_rounded_weights() -> None:
    """The `update_bn` of torch does the same on a network that has no dropout."""
    nets = [walked(steps) for steps in (1, 4)]
    before = [snapshot(net) for net in nets]
    found = cook(nets[0], mean_weights(nets), batches())
    for net, values in zip(nets, before, strict=True):
        assert all(torch.equal(values[name], value) for name, value in snapshot(net).items()), "left alone"
    twin = tiny()
    for name, value in twin.named_parameters(remove_duplicate=False):
        mean = (before[0][name] + before[1][name]) / 2
        value.data.copy_(mean.half())
    twin.dropout = nn.Identity()  # type: ignore[assignment]
    update_bn(batches()(), twin)
    expected = snapshot(twin)
    for name, got in snapshot(found).items():
        assert torch.equal(got, expected[name].half().double() if "running" in name else expected[name]), name
    assert not any(module.training for module in found.modules())


def test_filing_a_soup_does_not_change_it() -> None:
    found = cook(walked(1), mean_weights([walked(1), walked(3)]), batches())
    filed = checkpoint.decode(checkpoint.encode(found), "here")
    assert all(torch.equal(filed[name], value) for name, value in found.state_dict().items())


def test_networks_without_batch_norm_need_no_images() -> None:
    nets = [tiny(norms=False, seed=seed) for seed in (1, 2)]
    found = cook(nets[0], mean_weights(nets), no_batches).state_dict()
    one, other = (net.conv.weight.detach() for net in nets)
    assert torch.equal(found["conv.weight"], ((one + other) / 2).half().float())


def test_a_soup_without_images_for_its_statistics_is_an_error() -> None:
    with pytest.raises(MenagerieError, match="need at least one batch of images"):
        cook(walked(1), mean_weights([walked(1)]), lambda: iter(()))


def test_uniform_takes_all_and_is_judged_once() -> None:
    seen: list[dict[str, Tensor]] = []

    def judge(net: nn.Module) -> float:
        seen.append(snapshot(net))
        return 0.75

    nets = {"b": walked(1), "a": walked(4), "c": walked(2)}
    soup = uniform_soup([ingredient(name, net) for name, net in nets.items()], batches(), judge)
    assert (soup.taken, soup.accuracy, soup.tried) == (("b", "a", "c"), 0.75, {})
    wanted = snapshot(cook(nets["a"], mean_weights(nets.values()), batches()))
    assert len(seen) == 1
    assert all(torch.equal(wanted[name], value) for name, value in seen[0].items())
    assert all(torch.equal(wanted[name], value) for name, value in snapshot(soup.net).items())


@pytest.mark.parametrize("make", [uniform_soup, greedy_soup])
@pytest.mark.parametrize("count", [0, 1])
def test_one_network_is_no_soup(make: Callable[..., object], count: int) -> None:
    with pytest.raises(UsageError, match=f"^a soup is made of two networks or more, not of {count}$"):
        make([ingredient("a", walked(1))] * count, batches(), unjudged)


def number(value: float) -> nn.Linear:
    """A network that is one number."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def score(value: float) -> float:
    """Right where a number is close to 3: a hill with steps, so that there are ties."""
    return max(0.0, 1 - int(abs(value - 3)) / 10)


def algorithm_1(values: dict[str, int]) -> tuple[list[str], dict[str, float]]:
    """The paper's pseudocode, in exact arithmetic; returns what was taken, and the accuracy of each trial."""
    order = sorted(values, key=lambda name: (-score(values[name]), name))
    taken, tried = [order[0]], {}
    for name in order[1:]:
        mean, now = (Fraction(sum(values[n] for n in of), len(of)) for of in ([*taken, name], taken))
        tried[name] = score(float(np.float16(float(mean))))
        if tried[name] >= score(float(np.float16(float(now)))):
            taken.append(name)
    return taken, tried


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-20, 20), min_size=2))
def test_greedy_is_algorithm_1(values: dict[str, int]) -> None:
    ingredients = [Ingredient(n, score(v), lambda v=v: number(v)) for n, v in values.items()]  # type: ignore[misc]
    soup = greedy_soup(ingredients, no_batches, lambda net: score(next(net.parameters()).item()))
    taken, tried = algorithm_1(values)
    assert (list(soup.taken), soup.tried) == (taken, tried)
    assert list(soup.tried) == list(tried)
    assert next(soup.net.parameters()).item() == pytest.approx(sum(values[n] for n in taken) / len(taken), rel=1e-3)
    assert soup.accuracy == score(next(soup.net.parameters()).item())
    assert soup.accuracy >= max(map(score, values.values())), "never worse than the best"


def test_greedy_takes_what_changes_nothing_and_leaves_what_harms() -> None:
    """3 and 3 and 3 stay 3; with 9 it would be 4.5."""
    ingredients = [ingredient(name, number(v), score(v)) for name, v in {"z": 3, "x": 9, "a": 3, "m": 3}.items()]
    soup = greedy_soup(ingredients, no_batches, lambda net: score(next(net.parameters()).item()))
    assert (soup.taken, soup.accuracy, dict(soup.tried)) == (("a", "m", "z"), 1.0, {"m": 1.0, "z": 1.0, "x": 0.9})


def test_greedy_without_gain_returns_the_best_as_it_is() -> None:
    best = walked(3)
    soup = greedy_soup([ingredient("a", walked(1), 0.8), ingredient("b", best, 0.9)], batches(), unjudged)
    assert (soup.net, soup.taken, soup.accuracy, dict(soup.tried)) == (best, ("b",), 0.9, {"a": 0.25})


def test_statistics_are_of_whole_batches() -> None:
    counts = {0: 0, 1: 1, 34: 34, 499: 499, 500: 500, 501: 500, 1234: 1000, 9999: 9500, 10_000: 10_000, 45_000: 10_000}
    assert {available: statistics_images(available) for available in counts} == counts


@pytest.mark.parametrize(("images", "sizes"), [(7, [7]), (1234, [500, 500]), (0, [])])
def test_batches_are_the_first_images_as_they_are(images: int, sizes: list[int]) -> None:
    part, (mean, std), counted = toy_split(images, 3, size=4), MEAN_STD["cifar10"], list[int]()
    source = plain_batches(part, (mean, std), CPU, counted.append)
    for _ in range(2):  # every pass starts anew
        found = list(source())
        assert [len(batch) for batch in found] == sizes
        wanted = (part.images[: sum(sizes)] / 255 - np.array(mean)) / np.array(std)
        got = np.concatenate([batch.numpy() for batch in found]) if found else np.empty((0, 3, 4, 4))
        np.testing.assert_allclose(got, wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    assert counted == sizes * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two snapshots of a real run, and its end."""
    recipe = fastnet_recipe(epochs=3, groups=(), schedule=Schedule("restarts", cycles=3), snapshots=True)
    return fit(toy_job(recipe), tmp_path_factory.mktemp("run"))


def test_a_soup_of_snapshots_is_their_mean_with_statistics_of_its_own(run: Trained) -> None:
    job = toy_job(fastnet_recipe())
    nets = [run.others["snapshot1"], run.others["snapshot2"], run.net]
    ingredients = [ingredient(str(i), net) for i, net in enumerate(nets)]
    soup = uniform_soup(ingredients, plain_batches(job.part, job.stats, CPU), unjudged)

    states = [net.state_dict() for net in nets]
    assert len({state["head.weight"].numpy().tobytes() for state in states}) == 3, "they are different networks"
    twin = copy.deepcopy(run.net)
    explicit = {
        name: torch.from_numpy(np.mean([state[name].double().numpy() for state in states], axis=0)).half()
        for name in states[0]
        if not name.endswith(STATISTICS)
    }
    twin.load_state_dict(explicit, strict=False)
    pixels = (job.part.images / 255 - np.array(job.mean)) / np.array(job.std)
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()
    update_bn([images], twin)
    twin.eval()
    expected = twin.state_dict()
    for name, value in soup.net.state_dict().items():
        if name.endswith(STATISTICS):
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(value, expected[name]), name
    shown = images[:9]
    with torch.no_grad():
        torch.testing.assert_close(soup.net(shown), twin(shown), rtol=1e-2, atol=1e-2)
