"""The whole selection: members, views, weights, temperatures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.selection import made_up
from ensemble.fit.limits import Limits
from ensemble.fit.pool import Pool
from ensemble.fit.select import Method, Selection, fit_views, method_for, search, select
from ensemble.merge import Vote, merge
from ensemble.metrics import nll
from zoo.errors import UsageError

if TYPE_CHECKING:
    from ensemble.fit.objective import Objective

METHODS: list[Method] = ["greedy", "beam", "exhaustive"]


def free(pool: Pool, *sets: str) -> Mapping[str, Limits]:
    return {views: Limits(np.ones(len(pool.names))) for views in sets or ("flip",)}


def outcome(pool: Pool, chosen: Selection) -> tuple[int, float]:
    """Wrong answers and log-loss of a selection, by the code that evaluates committees."""
    columns, view_weights = pool.columns(chosen.views)
    votes = [
        Vote(pool.logits[m][columns].transpose(0, 2, 1), view_weights.tolist(), weight, temperature)
        for m, weight, temperature in zip(chosen.members, chosen.weights, chosen.temperatures, strict=True)
    ]
    probs, top = merge(votes, "probs", chosen.temperature)
    return int((top != pool.labels).sum()), nll(probs, pool.labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", ["nll", "accuracy"])
def test_what_is_claimed_is_what_the_committee_does(pool: Pool, method: Method, objective: "Objective") -> None:
    chosen = select(pool, free(pool, "none", "flip"), objective, method)
    wrong, loss = outcome(pool, chosen)
    assert chosen.wrong == wrong
    assert chosen.nll == pytest.approx(loss, abs=1e-5)
    assert chosen.method == method
    assert sum(chosen.weights) == pytest.approx(1)
    assert list(chosen.weights) == sorted(chosen.weights, reverse=True)
    assert chosen.cost == len(chosen.members) == len(set(chosen.members))
    assert chosen.temperatures == tuple(chosen.calibrated[list(chosen.members)])


def test_the_committee_is_better_than_its_best_member_and_than_all(pool: Pool) -> None:
    chosen = select(pool, free(pool))
    single = select(pool, {"flip": Limits(np.ones(7), max_members=1)})
    assert len(single.members) == 1
    assert single.nll > chosen.nll
    everyone, _ = merge([Vote(z.transpose(0, 2, 1), [0.5, 0.5]) for z in pool.logits], "probs")
    assert chosen.nll < nll(everyone, pool.labels)


def test_the_better_view_set_is_taken(pool: Pool) -> None:
    larger = made_up(8, 800, seed=6)
    both = {name: fit_views(larger, name, limits) for name, limits in free(larger, "none", "flip").items()}
    assert both["flip"].nll < both["none"].nll, "two looks show more"
    assert select(larger, free(larger, "none", "flip")).views == "flip"
    cheap = {"none": Limits(np.ones(7), 1.0), "flip": Limits(np.full(7, 2.0), 1.0)}
    assert select(pool, cheap).views == "none", "a set that nothing can afford is left out"


def test_a_view_that_shows_nothing_new_changes_nothing(pool: Pool) -> None:
    twin = Pool(pool.names, pool.views, pool.logits[:, [0, 0]], pool.labels)
    flip, none = (fit_views(twin, views, limits) for views, limits in free(twin, "flip", "none").items())
    assert flip.members == none.members
    assert flip.nll == pytest.approx(none.nll, abs=1e-6)


def test_the_order_of_candidates_does_not_matter(pool: Pool) -> None:
    order = np.random.default_rng(0).permutation(7)
    mixed = Pool(tuple(pool.names[i] for i in order), pool.views, pool.logits[order], pool.labels)
    ours, theirs = select(pool, free(pool)), select(mixed, free(mixed))
    assert {mixed.names[m] for m in theirs.members} == {pool.names[m] for m in ours.members}
    assert theirs.nll == pytest.approx(ours.nll, abs=1e-6)


def test_candidates_twice_change_nothing(pool: Pool) -> None:
    twice = Pool(
        (*pool.names, *(f"z-{name}" for name in pool.names)),
        pool.views,
        np.concatenate((pool.logits, pool.logits)),
        pool.labels,
    )
    ours, theirs = select(pool, free(pool), method="greedy"), select(twice, free(twice), method="greedy")
    assert (theirs.members, theirs.weights) == (ours.members, ours.weights)


def test_logits_plus_a_constant_change_nothing(pool: Pool) -> None:
    shift = np.random.default_rng(1).integers(-4, 5, (7, 2, 1, 300)).astype(np.float64)
    plain = Pool(pool.names, pool.views, np.round(pool.logits, 1), pool.labels)  # coarse, so that fp16 holds the sums
    moved = Pool(pool.names, pool.views, (plain.logits + shift).astype(np.float16), pool.labels)
    assert select(moved, free(pool)).members == select(plain, free(pool)).members


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_is_kept_and_used(pool: Pool, method: Method) -> None:
    costs = np.array([8.0, 1, 1, 1, 1, 1, 8])
    for budget in (1.0, 3.0, 8.0, 10.0):
        chosen = select(pool, {"flip": Limits(costs, budget)}, method=method)
        assert costs[list(chosen.members)].sum() == chosen.cost <= budget
    tight, loose = (select(pool, {"flip": Limits(costs, b)}, method=method).nll for b in (1.0, 10.0))
    assert loose < tight


def test_many_small_members_may_beat_the_one_that_eats_the_budget() -> None:
    """The best single candidate leaves no room; the search on cheaper ones finds what it misses."""
    of = np.empty((9, 1, 400), np.float32)
    rng = np.random.default_rng(0)
    of[0] = 0.5
    of[1:] = rng.choice([0.1, 0.9], (8, 1, 400), p=[0.4, 0.6])
    costs = np.array([8.0] + [1.0] * 8)
    bag, members, _ = search(of, Limits(costs, 8.0), "greedy")
    assert bag is not None
    assert 0 not in members
    assert bag.key < -np.log(0.5)


def test_a_budget_below_everything_names_the_cheapest(pool: Pool) -> None:
    limits = {"none": Limits(np.arange(1.0, 8.0), 0.5), "flip": Limits(np.arange(2.0, 16.0, 2), 0.5)}
    with pytest.raises(UsageError, match=r"the cheapest, 'made-up-0000' with --tta none, costs 1"):
        select(pool, limits)


def test_auto_is_exhaustive_then_beam_then_greedy() -> None:
    assert [method_for(n) for n in (1, 15, 16, 200, 201, 1000)] == [
        "exhaustive", "exhaustive", "beam", "beam", "greedy", "greedy",
    ]  # fmt: skip
    assert method_for(20, "exhaustive") == "exhaustive"
    with pytest.raises(UsageError, match="21 candidates have 2\\^21 subsets"):
        method_for(21, "exhaustive")


def test_accuracy_is_not_given_away_for_log_loss() -> None:
    pool = made_up(12, 400, seed=5)
    by_accuracy = select(pool, free(pool), "accuracy", "greedy")
    by_loss = select(pool, free(pool), "nll", "greedy")
    assert by_accuracy.wrong <= by_loss.wrong
    assert by_loss.nll <= by_accuracy.nll + 1e-3


def test_what_is_selected_is_better_on_images_that_were_not_fitted_on() -> None:
    pool = made_up(40, 2000, seed=6)
    fit, other = pool.rows(slice(0, None, 2)), pool.rows(slice(1, None, 2))
    chosen = select(fit, free(pool))
    single = select(fit, {"flip": Limits(np.ones(40), max_members=1)})
    assert outcome(other, chosen)[1] < outcome(other, single)[1]
    assert chosen.cross_validated == pytest.approx(outcome(other, chosen)[1], rel=0.1)


def test_ten_images_are_enough_to_run(pool: Pool) -> None:
    few = pool.rows(slice(0, 10))
    chosen = select(few, free(few, "none", "flip"))
    assert np.isfinite(chosen.nll)
    assert select(few.rows(slice(0, 4)), free(few)).cross_validated is None
