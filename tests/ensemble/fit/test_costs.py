"""Costs: of cards, and measured."""

from dataclasses import replace

import pytest
import torch

from ensemble.fit import costs
from ensemble.fit.costs import forward_milliseconds, measured_costs, multiply_adds
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


def test_a_forward_pass_takes_time() -> None:
    assert 0 < forward_milliseconds(CARD, 2, CPU) < 10_000


def test_each_architecture_is_measured_once_with_all_views_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, int]] = []

    def fake(card: Card, batch: int, device: torch.device) -> float:
        assert device == CPU
        measured.append((card.name, batch))
        return float(len(measured))

    monkeypatch.setattr(costs, "forward_milliseconds", fake)
    cards = [CARD, replace(CARD, name="b", seed=2), replace(CARD, name="c", architecture_args={})]
    assert measured_costs(cards, "flip", CPU, batch=4).tolist() == [1.0, 1.0, 2.0]
    assert measured == [("a", 8), ("c", 8)]
