"""A recipe's `[average]` table becomes the average it names."""

from typing import Literal

import pytest
import torch

from tests.training.averaging.conftest import batches, snapshot, tiny, walk
from training.averaging import Averager, Ema, Lookahead, Swa, Swag, build_averager
from training.recipe import Average
from zoo.errors import UsageError


def built(average: Average, steps: int = 20) -> Averager:
    made = build_averager(average, tiny(), steps)
    assert made is not None
    return made


def test_no_table_is_no_average() -> None:
    assert build_averager(None, tiny(), 20) is None


def test_every_field_arrives() -> None:
    ema = built(Average("ema", every=3, decay=0.7))
    assert type(ema) is Ema
    assert (ema.decay, ema.every, ema.start) == (0.7, 3, 2)
    lookahead = built(Average("lookahead", every=3, decay=0.7, ramp=2.0))
    assert type(lookahead) is Lookahead
    assert (lookahead.decay, lookahead.every, lookahead.start) == (0.7, 3, 2)
    assert (lookahead.steps, lookahead.ramp) == (20, 2.0)
    swa = built(Average("swa", every=2, start=0.5))
    assert type(swa) is Swa
    assert (swa.every, swa.start) == (2, 10)
    swag = built(Average("swag", every=4, start=0.3, rank=5, samples=2))
    assert type(swag) is Swag
    assert (swag.every, swag.start, swag.rank, swag.draws) == (4, 8, 5, 2)


@pytest.mark.parametrize(
    "average",
    [
        Average("ema", every=7),
        Average("swa", every=7, start=0.4),
        Average("swag", every=7),
        Average("lookahead", every=7, decay=0.9),
    ],
)
@pytest.mark.parametrize("steps", [14, 20, 28])
def test_last_snapshot_is_of_the_last_weights(average: Average, steps: int) -> None:
    if average.kind == "swag":
        average = Average("swag", every=7, start=0)
    net = tiny()
    made = build_averager(average, net, steps)
    assert made is not None
    walk(net, made, 1, steps - 1)
    before = made.updates
    walk(net, made, steps, steps)
    assert made.updates == before + 1
    assert made.ready


def test_swag_samples_as_many_as_the_recipe_says() -> None:
    net = tiny()
    made = build_averager(Average("swag", every=2, start=0.5, rank=3, samples=3), net, 10)
    assert isinstance(made, Swag)
    walk(net, made, 1, 10)
    drawn = made.samples(net, batches(), seed=0)
    assert list(drawn) == ["sample1", "sample2", "sample3"]
    assert torch.isfinite(next(iter(drawn.values())).state_dict()["conv.weight"]).all()


def test_runs_too_short_for_a_covariance_are_refused_before_they_begin() -> None:
    with pytest.raises(
        UsageError,
        match=r"^average\.every = 8 leaves 1 of the 2 snapshots that swag needs in this run of 20 steps: lower it, or",
    ):
        built(Average("swag", every=8))
    assert built(Average("swag", every=5)).start == 15


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_single_snapshot_is_the_last_weights(kind: Literal["ema", "swa"]) -> None:
    net = tiny()
    made = build_averager(Average(kind, every=50), net, 6)
    assert made is not None
    history = walk(net, made, 1, 6)
    got = snapshot(made.average(net, batches()))
    assert torch.equal(got["conv.weight"], history[-1]["conv.weight"])
