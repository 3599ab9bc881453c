"""Costs: of cards, and measured."""

from dataclasses import replace

import pytest
import torch

from ensemble.fit.costs import measured_costs, multiply_adds
from ensemble.latency import measure
from ensemble.latency.cache import Known, LatencyCache
from ensemble.latency.times import Latency, summarise
from ensemble.latency.workload import Workload, of_network
from tta import TTA
from tta.freeze import best_precision
from zoo.card import Card
from zoo.errors import DataError

CARD = Card(
    "a", "fastnet", "cifar10", ("x", "y"), (0.5,) * 3, (0.25,) * 3, (32, 32), architecture_args={"widths": [8, 8, 8]}
)
CPU = torch.device("cpu")


def test_multiply_adds_count_for_every_view() -> None:
    cards = [replace(CARD, multiply_adds=2 * 10**9), replace(CARD, multiply_adds=5 * 10**8)]
    for views, times in (("none", 1), ("flip", 2), ("flip+shift1", 6), ("crops5", 5)):
        assert multiply_adds(cards, views).tolist() == [2.0 * times, 0.5 * times]


def test_a_card_that_does_not_say_is_named() -> None:
    with pytest.raises(DataError, match="the card of 'b' does not say"):
        multiply_adds([replace(CARD, multiply_adds=1), replace(CARD, name="b")], "none")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for no longer than it takes to see how."""
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    monkeypatch.setattr(measure, "_WINDOW", 0.0)


def test_a_forward_pass_takes_time_and_is_remembered() -> None:
    cache = LatencyCache(CPU)
    (first,) = measured_costs([CARD], "none", cache, 2)
    assert 0 < first < 10_000
    assert measured_costs([CARD], "none", LatencyCache(CPU), 2).tolist() == [first]
    found = cache.find(Workload(of_network(CARD), "none", 2, best_precision(CPU), "frozen"))
    assert found is not None
    assert found.latency.median_ms == first


def test_each_architecture_is_measured_once_behind_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def fake(run: TTA, images: torch.Tensor, *, device: torch.device, seconds: float) -> Latency:
        assert (device, seconds) == (CPU, 0.01)
        assert not run.training
        shapes.append((len(run.views), tuple(images.shape), tuple(run(images).shape)))
        return summarise([float(len(shapes))], len(images))

    monkeypatch.setattr(measure, "measure", fake)
    cards = [CARD, replace(CARD, name="b", seed=2), replace(CARD, name="c", architecture_args={"widths": [8, 16, 8]})]
    told: list[tuple[str, str, float, bool]] = []

    def tell(card: Card, views: str, known: Known) -> None:
        told.append((card.name, views, known.latency.median_ms, known.fresh))

    cache = LatencyCache(CPU)
    assert measured_costs(cards, "flip", cache, batch=4, tell=tell).tolist() == [1.0, 1.0, 2.0]
    assert shapes == [(2, (4, 3, 32, 32), (4, 2))] * 2
    assert told == [("a", "flip", 1.0, True), ("c", "flip", 2.0, True)]
    told.clear()
    assert measured_costs(cards[::-1], "flip", cache, batch=4, tell=tell).tolist() == [2.0, 1.0, 1.0]
    assert told == [("c", "flip", 2.0, False), ("b", "flip", 1.0, False)]
    assert measured_costs(cards[:2], "flip", cache, batch=4, remeasure=True).tolist() == [3.0, 3.0]
    assert measured_costs(cards[:1], "flip", cache, batch=3).tolist() == [4.0]
    assert measured_costs(cards[:1], "none", cache, batch=4).tolist() == [5.0]
