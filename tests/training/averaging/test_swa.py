"""SWA against the plain mean of the recorded weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.averaging.conftest import batches, no_batches, saved, snapshot, tiny, walk
from training.averaging import Swa, first_step, recompute_statistics
from zoo.errors import MenagerieError

TRAINABLE = {"conv.weight", "conv.bias", "deep.bias", "head.weight", "head.bias"} | {
    f"{norm}.{name}" for norm in ("norm", "norm2") for name in ("weight", "bias")
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("every", "start", "taken"), [(1, 0, 12), (3, 5, 3), (4, 4, 3), (100, 12, 1)])
def test_weights_are_the_mean_of_snapshots(every: int, start: int, taken: int, channels_last: bool) -> None:
    net = tiny(channels_last=channels_last)
    swa = Swa(net, every=every, start=start)
    history = walk(net, swa, 1, 12)
    steps = [s for s in range(1, 13) if s >= start and (s - start) % every == 0]
    assert swa.updates == len(steps) == taken
    got = snapshot(swa.average(net, batches()))
    for name in TRAINABLE:
        mean = torch.stack([history[s - 1][name] for s in steps]).mean(0)
        torch.testing.assert_close(got[name], mean, rtol=1e-5, atol=1e-6)
    for name in ("deep.weight", "constant"):
        assert torch.equal(got[name], history[-1][name])
    assert torch.equal(got["same.weight"], got["head.weight"])
    assert set(swa.state_dict()["averages"]) == TRAINABLE


def test_first_snapshot_counts_once() -> None:
    net = tiny()
    swa = Swa(net)
    for step, value in enumerate((3.0, 6.0, 12.0), 1):
        net.head.bias.data.fill_(value)
        swa.update(net, step)
    assert swa.state_dict()["averages"]["head.bias"].tolist() == [7.0, 7.0]


def test_statistics_are_those_of_the_averaged_weights() -> None:
    net = tiny()
    swa = Swa(net)
    walk(net, swa, 1, 6)
    average = swa.average(net, batches())
    got = snapshot(average)
    for norm in ("norm", "norm2"):
        assert not torch.allclose(got[f"{norm}.running_mean"], snapshot(net)[f"{norm}.running_mean"], rtol=1e-3)
    recompute_statistics(average, batches())  # held to formulas in its own test
    assert all(torch.equal(value, got[name]) for name, value in snapshot(average).items())


def test_network_is_left_alone() -> None:
    net = tiny()
    swa = Swa(net)
    walk(net, swa, 1, 3)
    before = snapshot(net.train())
    assert not swa.average(net, batches()).training
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in snapshot(net).items())


def test_networks_without_batch_norm_need_no_images() -> None:
    net = tiny(norms=False)
    swa = Swa(net)
    history = walk(net, swa, 1, 2)
    got = snapshot(swa.average(net, no_batches))
    for name in TRAINABLE:
        torch.testing.assert_close(got[name], (history[0][name] + history[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_nothing_to_average_is_an_error() -> None:
    net = tiny()
    swa = Swa(net, start=first_step(0.75, 100, 5))
    walk(net, swa, 1, 3)
    assert not swa.ready
    with pytest.raises(MenagerieError, match=r"^too few snapshots were averaged \(0\): train longer, start earlier or"):
        swa.average(net, batches())


@settings(max_examples=15)
@given(stop=st.integers(0, 9), every=st.integers(1, 4), start=st.integers(0, 6))
def test_stopping_anywhere_changes_no_bit(stop: int, every: int, start: int) -> None:
    net, same = tiny(channels_last=True), tiny(channels_last=True)
    whole, begun = (Swa(n, every=every, start=start) for n in (net, same))
    walk(net, whole, 1, 10)
    walk(same, begun, 1, stop)
    resumed = Swa(same, every=every, start=start)
    resumed.load_state_dict(saved(begun.state_dict()))
    walk(same, resumed, stop + 1, 10)
    assert resumed.updates == whole.updates
    expected, got = (snapshot(s.average(n, batches())) for s, n in ((whole, net), (resumed, same)))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
