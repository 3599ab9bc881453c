"""Greedy and beam search, held to slow readable twins and to exhaustive search."""

import numpy as np
import pytest

from ensemble.fit.limits import Limits
from ensemble.fit.objective import Features, Objective, features, keys
from ensemble.fit.pool import Pool
from ensemble.fit.search import beam_search
from ensemble.fit.subsets import score_subsets
from ensemble.merge import Vote, merge
from ensemble.metrics import nll

FREE = Limits(np.zeros(9))


def slow_greedy(pool: Pool, objective: str, rounds: int) -> tuple[tuple[int, ...], float]:
    """Caruana's algorithm word by word, each committee scored by the code that evaluates one."""

    def measure(bag: list[int]) -> tuple[float, float]:
        votes = [Vote(pool.logits[m].transpose(0, 2, 1), [0.5, 0.5]) for m in bag]
        probs, top = merge(votes, "probs")
        wrong = int((top != pool.labels).sum()) if objective == "accuracy" else 0
        return wrong, nll(probs, pool.labels)

    bag: list[int] = []
    best: tuple[tuple[float, float], list[int]] = ((np.inf, np.inf), [])
    for _ in range(rounds):
        score, added = min((measure([*bag, m]), m) for m in range(len(pool.names)))
        bag = [*bag, added]
        best = min(best, (score, bag), key=lambda pair: pair[0])
    (wrong, loss), members = best
    return tuple(sorted(members)), loss if objective == "nll" else wrong + loss / (1 + loss)


@pytest.mark.parametrize("objective", ["nll", "accuracy"])
def test_greedy_is_its_slow_twin(pool: Pool, objective: Objective) -> None:
    of = features(pool, "flip", np.ones(7), objective)
    found = beam_search(of, Limits(np.zeros(7)), rounds=8)
    members, key = slow_greedy(pool, objective, 8)
    assert found.members == members
    assert found.key == pytest.approx(key, abs=1e-5)


def slow_beam(of: Features, width: int, rounds: int) -> tuple[tuple[int, ...], float]:
    """Beam search that counts every image for every candidate."""
    beam: list[tuple[int, ...]] = [()]
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    for size in range(1, rounds + 1):
        bags = sorted({tuple(sorted((*bag, m))) for bag in beam for m in range(len(of))})
        scores = keys(np.stack([of[list(bag)].sum(0) for bag in bags]), size)
        beam = [bags[place] for place in np.argsort(scores, kind="stable")[:width]]
        best = min(best, (float(scores.min()), beam[0]), key=lambda pair: pair[0])
    return best[1], best[0]


@pytest.mark.parametrize("width", [1, 4])
def test_images_that_no_candidate_can_change_are_rightly_left_out(width: int) -> None:
    """Many easy images, some lost ones, and a few that are close: those alone are counted after some rounds."""
    rng = np.random.default_rng(3)
    ease = np.repeat([0.6, -0.4, 0.05], [500, 60, 40])
    leads = ease + rng.uniform(-0.3, 0.3, (20, 3, 600))
    of = np.concatenate((np.clip(ease + 0.4, 0.1, 1) + rng.uniform(-0.05, 0.05, (20, 1, 600)), leads), 1)
    found = beam_search(of.astype(np.float32), Limits(np.zeros(20)), width=width, rounds=12)
    members, key = slow_beam(of.astype(np.float32), width, 12)
    assert found.members == members
    assert found.key == pytest.approx(key, abs=1e-5)


def test_a_wider_beam_is_no_worse_here_and_a_full_one_is_optimal(contributions: Features) -> None:
    narrow = beam_search(contributions, FREE, width=1).key
    wide = beam_search(contributions, FREE, width=8).key
    assert wide <= narrow + 1e-7
    full = beam_search(contributions, FREE, width=10_000, rounds=3)
    pairs_and_triples = score_subsets(contributions)
    few = np.bitwise_count(np.arange(512)) <= 3
    assert full.key <= pairs_and_triples[few].min() + 1e-6


def test_the_key_is_the_loss_of_the_weighted_mean(contributions: Features) -> None:
    found = beam_search(contributions, FREE)
    counts = np.array(list(found.counts.values())) / len(found.members)
    mean = counts @ contributions[list(found.counts), 0]
    assert found.key == pytest.approx(-np.log(mean).mean(), abs=1e-6)
    assert sum(found.counts.values()) == len(found.members)


def test_the_first_of_equals_is_taken(contributions: Features) -> None:
    doubled = np.concatenate((contributions, contributions))
    assert max(beam_search(doubled, Limits(np.zeros(18))).members) < 9
    assert beam_search(doubled, Limits(np.zeros(18))) == beam_search(contributions, FREE)


def test_the_order_of_candidates_does_not_matter(contributions: Features) -> None:
    order = np.random.default_rng(4).permutation(9)
    found = beam_search(contributions[order], FREE)
    assert sorted(order[list(found.members)].tolist()) == list(beam_search(contributions, FREE).members)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(("most", "budget"), [(1, None), (3, None), (None, 3.0), (2, 4.0)])
def test_limits_hold(contributions: Features, width: int, most: int | None, budget: float | None) -> None:
    costs = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], float)
    found = beam_search(contributions, Limits(costs, budget, most), width=width)
    chosen = set(found.members)
    assert chosen
    assert len(chosen) <= (most or 9)
    assert costs[list(chosen)].sum() <= (budget or np.inf)


def test_a_member_that_is_in_may_weigh_more_at_no_cost(contributions: Features) -> None:
    two = Limits(np.ones(9), 2.0)
    assert len(beam_search(contributions, two).members) > 2


def test_nothing_affordable_is_an_error(contributions: Features) -> None:
    with pytest.raises(ValueError, match="affordable"):
        beam_search(contributions, Limits(np.ones(9), 0.5))
