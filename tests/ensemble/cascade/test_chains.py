"""The search for stages, against all that there are where they are few."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ensemble.cascade.chains import Chain, best_chain, orders, stages_of
from ensemble.cascade.evidence import Evidence, Shape
from ensemble.cascade.thresholds import best_thresholds
from tests.ensemble.cascade.conftest import MadeUp

Make = Callable[..., MadeUp]


def inside(a: Shape, b: Shape) -> bool:
    """Whether stage a is contained in b and another; view sets are none or flip."""
    return a != b and set(a[0]) <= set(b[0]) and (a[1], b[1]) != ("flip", "none")


def all_chains(evidence: Evidence, most: int) -> list[tuple[Shape, ...]]:
    """Every nesting of any members, in no order at all."""
    members = range(len(evidence.weights))
    some = [c for n in members for c in itertools.combinations(members, n + 1)]
    shapes = [(c, v) for c in some for v in evidence.parts if (c, v) != evidence.whole]
    found = []
    for stages in range(1, most):
        for chosen in itertools.permutations(shapes, stages):
            chain = (*chosen, evidence.whole)
            if all(inside(a, b) for a, b in itertools.pairwise(chain)):
                found.append(chain)
    return found


def least(evidence: Evidence, most: int, drop: float) -> float:
    costs = []
    for chain in all_chains(evidence, most):
        signals = [evidence.fitted(shape)[1] for shape in chain[:-1]]
        choice = best_thresholds(signals, evidence.added_costs(chain), expected=drop, observed=drop)
        costs += [choice.cost] if choice else []
    return min(costs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [2, 3])
def test_of_few_members_it_is_about_the_best_there_is(make: Make, seed: int, most: int) -> None:
    evidence = make(3, 300, seed=seed).evidence
    found = best_chain(evidence, expected=0.005, observed=0.005, most=most)
    assert found is not None
    bound = least(evidence, most, 0.005)
    # The longer one must save a hundredth, and members join in one order.
    assert bound * (1 - 1e-12) <= found.choice.cost <= 1.05 * bound
    assert len(found.shapes) <= most


def check(chain: Chain, evidence: Evidence) -> None:
    assert (set(chain.shapes[-1][0]), chain.shapes[-1][1]) == (set(evidence.whole[0]), evidence.views)
    assert all(inside(a, b) for a, b in itertools.pairwise(chain.shapes))
    for a, b in itertools.pairwise(chain.shapes):
        assert b[0][: len(a[0])] == a[0]
    assert len(chain.choice.thresholds) == len(chain.shapes) - 1


def test_more_stages_are_cheaper_or_not_taken(make: Make) -> None:
    evidence = make(5, 600).evidence
    chains = [best_chain(evidence, expected=0.005, observed=0.005, most=most) for most in (2, 3, 4)]
    costs = []
    for chain in chains:
        assert chain is not None
        check(chain, evidence)
        costs.append(chain.choice.cost)
    assert costs[0] > costs[1] >= costs[2]
    assert costs[0] < evidence.cost(evidence.whole)


def test_a_cheap_member_goes_first_and_a_bad_one_does_not(make: Make) -> None:
    made = make(3, 500)
    plain = made.evidence
    cheap = replace(plain, costs=np.array([5.0, 5.0, 0.2]), _known={})
    assert orders(cheap, expected=0.01, observed=0.01)[0][0] == 2
    noise = dict(plain.parts)
    for views, part in noise.items():
        noise[views] = part.copy()
        noise[views][2] = np.roll(part[2], 1, axis=0)  # what it says is of other images
    bad = replace(cheap, parts=noise, _known={})
    assert orders(bad, expected=0.01, observed=0.01)[0][0] != 2


def test_stages_of_many_members_are_few() -> None:
    def lengths(members: int) -> list[int]:
        evidence = Evidence(
            {"none": np.zeros((members, 1, 2))}, np.ones(members), np.ones(members), logits=False, views="none",
            temperature=1.0, labels=np.zeros(1, np.int64),
        )  # fmt: skip
        return [len(shape[0]) for shape in stages_of(evidence, range(members))]

    assert lengths(1) == [1]
    assert lengths(5) == [1, 2, 3, 4, 5]
    assert lengths(20) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 20]


def test_two_views_of_one_member(make: Make) -> None:
    evidence = make(1, 300).evidence
    chain = best_chain(evidence, expected=0.01, observed=0.01)
    assert chain is not None
    assert chain.shapes == (((0,), "none"), ((0,), "flip"))


def test_one_view_of_one_member_is_no_cascade(make: Make) -> None:
    assert best_chain(make(1, 100, views="none").evidence, expected=0.5, observed=0.5) is None
