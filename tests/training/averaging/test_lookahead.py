"""Lookahead against the recursion of its source, step by step, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.averaging.conftest import no_batches, saved, snapshot, step_once, tiny, walk
from training.averaging import Lookahead
from zoo.errors import UsageError


@pytest.mark.parametrize(("decay", "every", "ramp", "start"), [(0.95, 5, 3.0, 0), (0.8, 1, 1.0, 0), (0.9, 2, 0.0, 3)])
def test_it_is_the_recursion_of_its_source(decay: float, every: int, ramp: float, start: int) -> None:
    net, same = tiny(), tiny()
    lookahead = Lookahead(net, decay, steps=20, ramp=ramp, every=every, start=start)
    slow = snapshot(same)
    for step in range(1, 21):
        for one in (net, same):
            step_once(one, step)
        lookahead.update(net, step)
        if step >= start and (step - start) % every == 0:
            fast = snapshot(same)
            share = decay**every * (step / 20) ** ramp
            slow = {n: share * slow[n] + (1 - share) * t for n, t in fast.items()}
            with torch.no_grad():
                for name, tensor in (*same.named_parameters(), *same.named_buffers()):
                    if tensor.is_floating_point():
                        tensor.copy_(slow[name])
        for name, tensor in snapshot(net).items():
            torch.testing.assert_close(tensor, snapshot(same)[name], rtol=1e-5, atol=1e-6)
    average = snapshot(lookahead.average(net, no_batches))
    for name in set(slow) - {"norm.num_batches_tracked", "norm2.num_batches_tracked"}:
        torch.testing.assert_close(average[name], slow[name], rtol=1e-5, atol=1e-6)


def test_the_network_goes_on_from_the_average() -> None:
    net, alone = tiny(), tiny()
    lookahead = Lookahead(net, 0.9, steps=12, ramp=0, every=3)
    walk(net, lookahead, 1, 12)
    for step in range(1, 13):
        step_once(alone, step)
    average, own, other = (snapshot(n) for n in (lookahead.average(net, no_batches), net, alone))
    assert torch.equal(average["conv.weight"], own["conv.weight"])
    assert torch.equal(average["norm.running_var"], own["norm.running_var"])
    assert not torch.allclose(own["conv.weight"], other["conv.weight"], atol=0.01)


def test_between_updates_it_moves_by_itself() -> None:
    net, alone = tiny(), tiny()
    lookahead = Lookahead(net, 0.9, steps=12, every=5)
    history = walk(net, lookahead, 1, 4)
    for step in range(1, 5):
        step_once(alone, step)
    assert torch.equal(history[-1]["conv.weight"], snapshot(alone)["conv.weight"])


def test_a_constant_decay_is_the_papers() -> None:
    """Algorithm 1 with alpha = 1 - 0.95 ** 5, on weights that move by one a step, worked out by hand."""
    net = tiny()
    weights = net.head.weight.data
    weights.zero_()
    lookahead, seen = Lookahead(net, 0.95, steps=10, ramp=0, every=5), []
    for step in range(1, 11):
        weights += 1
        lookahead.update(net, step)
        seen.append(float(weights[0, 0]))
    alpha = 1 - 0.95**5
    assert seen == pytest.approx([1, 2, 3, 4, 5 * alpha, *(5 * alpha + k for k in range(1, 5)), 10 * alpha])


@settings(max_examples=15)
@given(stop=st.integers(0, 11), every=st.integers(1, 4))
def test_stopping_anywhere_changes_no_bit(stop: int, every: int) -> None:
    net, same = tiny(), tiny()
    whole, begun = (Lookahead(n, 0.9, steps=12, every=every) for n in (net, same))
    walk(net, whole, 1, 12)
    walk(same, begun, 1, stop)
    resumed = Lookahead(same, 0.9, steps=12, every=every)
    resumed.load_state_dict(saved(begun.state_dict()))
    walk(same, resumed, stop + 1, 12)
    expected, got = snapshot(net), snapshot(same)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_decays_out_of_range_are_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=rf"^a Lookahead decay of {decay} is not possible: give one in \[0, 1\)$"):
        Lookahead(tiny(), decay, steps=10)
