"""Baselines, held to the code that evaluates committees."""

import numpy as np
import pytest

from ensemble.fit.baselines import Baselines, baselines
from ensemble.fit.pool import Pool
from ensemble.merge import Vote, merge
from ensemble.metrics import nll


def test_each_and_all_score_as_committees_do(pool: Pool) -> None:
    temperatures = np.linspace(0.5, 2, 7)
    found = baselines(pool, "flip", temperatures)
    votes = [
        Vote(z.transpose(0, 2, 1), [0.5, 0.5], 1.0, float(t)) for z, t in zip(pool.logits, temperatures, strict=True)
    ]
    for member, vote in enumerate(votes):
        probs, top = merge([vote], "probs")
        assert found.accuracy[member] == pytest.approx((top == pool.labels).mean())
        assert found.nll[member] == pytest.approx(nll(probs, pool.labels), abs=1e-6)
    probs, top = merge(votes, "probs", found.all_temperature)
    assert found.all_accuracy == pytest.approx((top == pool.labels).mean())
    assert found.all_nll == pytest.approx(nll(probs, pool.labels), abs=1e-6)


def test_the_best_by_either_measure_and_the_first_of_equals() -> None:
    table = Baselines(np.array([0.5, 0.9, 0.9, 0.8]), np.array([0.3, 0.7, 0.6, 0.3]), 0.0, 0.0, 1.0)
    assert (table.best("accuracy"), table.best("nll")) == (2, 3)
    same = Baselines(np.full(3, 0.5), np.full(3, 0.5), 0.0, 0.0, 1.0)
    assert (same.best("accuracy"), same.best("nll")) == (0, 0)
