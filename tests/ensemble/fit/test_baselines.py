"""Baselines, held to the code that evaluates committees."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.fit.baselines import baselines
from ensemble.fit.pool import Pool
from ensemble.merge import Vote, merge
from ensemble.metrics import nll

if TYPE_CHECKING:
    from ensemble.fit.objective import Objective


@pytest.mark.parametrize("objective", ["nll", "accuracy"])
def test_the_best_and_all_score_as_committees_do(pool: Pool, objective: "Objective") -> None:
    temperatures = np.linspace(0.5, 2, 7)
    best, alone, everyone = baselines(pool, "flip", temperatures, objective)
    votes = [
        Vote(z.transpose(0, 2, 1), [0.5, 0.5], 1.0, float(t)) for z, t in zip(pool.logits, temperatures, strict=True)
    ]
    scores = []
    for vote in votes:
        probs, top = merge([vote], "probs")
        scores.append((float((top == pool.labels).mean()), nll(probs, pool.labels)))
    expected = min(range(7), key=lambda m: (-scores[m][0] if objective == "accuracy" else 0, scores[m][1]))
    assert best == expected
    assert (alone.accuracy, alone.nll) == pytest.approx(scores[best], abs=1e-6)
    assert alone.temperature == temperatures[best]
    probs, top = merge(votes, "probs", everyone.temperature)
    assert everyone.accuracy == pytest.approx((top == pool.labels).mean())
    assert everyone.nll == pytest.approx(nll(probs, pool.labels), abs=1e-6)


def test_the_first_of_equals_is_the_best(pool: Pool) -> None:
    same = Pool(pool.names, pool.views, np.repeat(pool.logits[:1], 7, 0), pool.labels)
    assert baselines(same, "flip", np.ones(7), "nll")[0] == 0
    assert baselines(same, "flip", np.ones(7), "accuracy")[0] == 0
