"""EMA against explicit weighted sums over the recorded weights, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.averaging.conftest import History, no_batches, saved, snapshot, tiny, walk
from training.averaging import Ema, ema_decay
from zoo.errors import MenagerieError, UsageError

AVERAGED = {"conv.weight", "conv.bias", "deep.bias", "head.weight", "head.bias", "constant"} | {
    f"{norm}.{name}" for norm in ("norm", "norm2") for name in ("weight", "bias", "running_mean", "running_var")
}


def shares(decays: list[float]) -> list[float]:
    """How much each snapshot weighs in the end, if update t multiplied what was there by `decays[t]`."""
    return [(1 - d if t else 1.0) * math.prod(decays[t + 1 :]) for t, d in enumerate(decays)]


def weighted(history: History, weights: list[float]) -> dict[str, torch.Tensor]:
    return {
        name: sum((w * h[name] for w, h in zip(weights, history, strict=True)), torch.zeros(())) for name in history[0]
    }


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("decay", "every", "start"), [(0.6, 1, 0), (0.999, 1, 0), (0.6, 3, 0), (0.8, 2, 5), (0.0, 1, 0)]
)
def test_average_is_the_weighted_sum_of_snapshots(decay: float, every: int, start: int, channels_last: bool) -> None:
    net = tiny(channels_last=channels_last)
    ema = Ema(net, decay, every=every, start=start)
    history = walk(net, ema, 1, 13)
    taken = [h for step, h in enumerate(history, 1) if step >= start and (step - start) % every == 0]
    decays = [min(decay**every, (1 + t) / (10 + t)) for t in range(len(taken))]
    assert sum(shares(decays)) == pytest.approx(1)
    expected = weighted(taken, shares(decays))
    got = snapshot(ema.average(net, no_batches))
    for name in AVERAGED:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)
        if name != "constant" and decay:
            assert not torch.allclose(got[name], history[-1][name], rtol=1e-3, atol=1e-4), "it lags behind"
    for name in ("deep.weight", "constant", "norm.num_batches_tracked"):
        assert torch.equal(got[name], history[-1][name])
    assert torch.equal(got["same.weight"], got["head.weight"])
    assert ema.updates == len(taken)
    assert set(ema.state_dict()["averages"]) == AVERAGED, "nothing frozen is kept twice"


def test_decay_warms_up_as_the_table_says() -> None:
    # min(0.999, (1 + t) / (10 + t)), worked out by hand.
    table = {0: 0.1, 1: 2 / 11, 10: 0.55, 90: 0.91, 8_989: 8_990 / 8_999, 8_990: 0.999, 100_000: 0.999}
    assert {t: ema_decay(0.999, t) for t in table} == pytest.approx(table, rel=1e-12)


@given(decay=st.floats(0, 0.99999), every=st.integers(1, 50), updates=st.integers(0, 10**6))
def test_horizon_in_steps_is_the_same_however_often_it_is_updated(decay: float, every: int, updates: int) -> None:
    one = ema_decay(decay, updates, every)
    assert 0 <= one <= decay**every
    assert ema_decay(decay, 10**15, every) == pytest.approx(ema_decay(decay, 10**15) ** every, abs=1e-12)
    assert ema_decay(decay, updates + 1, every) >= one


def test_average_of_what_stands_still_is_that() -> None:
    net = tiny()
    ema = Ema(net, 0.9)
    before = snapshot(net)
    for step in range(1, 20):
        ema.update(net, step)
    after = snapshot(ema.average(net, no_batches))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_before_the_first_update_it_is_the_network_itself() -> None:
    net = tiny().train()
    ema = Ema(net, 0.9, every=5)
    assert ema.ready
    history = walk(net, ema, 1, 4)
    assert ema.updates == 0
    average = ema.average(net, no_batches)
    assert not average.training
    assert all(torch.equal(value, history[-1][name]) for name, value in snapshot(average).items())


def test_network_and_average_share_nothing() -> None:
    net = tiny().train()
    ema = Ema(net, 0.9)
    walk(net, ema, 1, 3)
    before, first = snapshot(net), ema.average(net, no_batches)
    kept = snapshot(first)
    for p in first.parameters():
        p.data.fill_(9)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in snapshot(net).items())
    assert all(torch.equal(value, kept[name]) for name, value in snapshot(ema.average(net, no_batches)).items())


@settings(max_examples=15)
@given(stop=st.integers(0, 11), every=st.integers(1, 4), start=st.integers(0, 6))
def test_stopping_anywhere_changes_no_bit(stop: int, every: int, start: int) -> None:
    net, same = tiny(), tiny()
    whole, begun = (Ema(n, 0.8, every=every, start=start) for n in (net, same))
    walk(net, whole, 1, 12)
    walk(same, begun, 1, stop)
    resumed = Ema(same, 0.8, every=every, start=start)
    resumed.load_state_dict(saved(begun.state_dict()))
    walk(same, resumed, stop + 1, 12)
    assert resumed.updates == whole.updates
    expected, got = (snapshot(e.average(n, no_batches)) for e, n in ((whole, net), (resumed, same)))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_loaded_state_is_not_shared() -> None:
    net = tiny()
    ema, other = Ema(net, 0.8), Ema(net, 0.8)
    walk(net, ema, 1, 3)
    expected = snapshot(ema.average(net, no_batches))
    other.load_state_dict(ema.state_dict())
    walk(net, other, 4, 6)
    got = snapshot(ema.average(net, no_batches))
    assert all(torch.equal(expected[name], got[name]) for name in AVERAGED)


def test_a_state_of_another_network_is_refused() -> None:
    net, other = tiny(), tiny(norms=False)
    ema = Ema(net, 0.8)
    walk(net, ema, 1, 2)
    with pytest.raises(MenagerieError, match=r"^the saved averages are of another network: start the run anew$"):
        Ema(other, 0.8).load_state_dict(ema.state_dict())


def test_half_precision_weights_are_averaged_in_single() -> None:
    net = tiny().bfloat16()
    ema = Ema(net, 0.999, every=1)
    net.head.bias.data.fill_(256)  # where bf16 knows even numbers only
    for step in range(1, 200):
        ema.update(net, step)
    net.head.bias.data.fill_(258)
    ema.update(net, 200)
    value = ema.state_dict()["averages"]["head.bias"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, torch.full((2,), 256 + 2 * (1 - 200 / 209)))
    assert ema.average(net, no_batches).state_dict()["head.bias"].dtype == torch.bfloat16


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, 2.0])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=r"^an EMA decay of .* is not possible: give one in \[0, 1\)$"):
        Ema(tiny(), decay)


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^averaging every 0 steps is not possible: give 1 or more$"):
        Ema(tiny(), 0.9, every=0)
