"""When snapshots are due, against a slow count of steps; and how a copy of a network gets other weights."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.averaging.conftest import snapshot, tiny
from training.averaging import first_step, is_due, with_tensors
from zoo.errors import UsageError


@given(start=st.integers(0, 40), every=st.integers(1, 12))
def test_snapshots_are_due_at_the_start_and_every_so_often(start: int, every: int) -> None:
    due, wait = [], start
    for step in range(60):
        if wait == 0:
            due.append(step)
            wait = every
        wait -= 1
    assert [step for step in range(60) if is_due(step, start, every)] == due


@given(share=st.fractions(0, 1), total=st.integers(1, 300), every=st.integers(1, 60))
def test_the_last_weights_are_always_taken(share: Fraction, total: int, every: int) -> None:
    start = first_step(float(share), total, every)
    due = [step for step in range(total + 1) if is_due(step, start, every)]
    # All that there are, counted back from the end, in the share of the run that is left.
    slow, step = [total], total - every
    while step >= round(float(share) * total):
        slow.insert(0, step)
        step -= every
    assert due == slow


@pytest.mark.parametrize(
    ("share", "total", "every", "start"), [(0.75, 100, 10, 80), (0.75, 100, 25, 75), (0, 10, 3, 1), (1, 10, 3, 10)]
)
def test_first_step_of_round_numbers(share: float, total: int, every: int, start: int) -> None:
    assert first_step(share, total, every) == start


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"^averaging cannot start at a share of .* of the run: give one in \[0, 1\]$"):
        first_step(share, 100, 1)


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^averaging every 0 steps is not possible: give 1 or more$"):
        first_step(0.5, 100, 0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_values_go_into_a_copy(channels_last: bool) -> None:
    net = tiny(channels_last=channels_last).train()
    before = snapshot(net)
    value = torch.arange(108.0).reshape(4, 3, 3, 3)
    out = with_tensors(net, {"conv.weight": value, "norm.running_mean": torch.ones(4)})
    assert torch.equal(out.conv.weight, value)
    assert out.conv.weight.stride() == net.conv.weight.stride()
    assert out.conv.weight.requires_grad
    assert not out.deep.weight.requires_grad
    assert torch.equal(snapshot(out)["norm.running_mean"], torch.ones(4).double())
    assert out.same is out.head
    assert not out.training
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(net).items())
