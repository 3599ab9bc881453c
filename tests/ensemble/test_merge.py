"""Merging, held to loops that follow the order of operations word by word."""

import math
from itertools import permutations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from ensemble.merge import MERGES, Merge, Vote, log_softmax, merge

Row = list[float]


def softmax(row: Row) -> Row:
    highest = max(row)
    powers = [math.exp(value - highest) for value in row]
    return [power / sum(powers) for power in powers]


def weighted_mean(values: Row, weights: Row) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def mean_rows(rows: list[Row], weights: Row) -> Row:
    return [weighted_mean(list(column), weights) for column in zip(*rows, strict=True)]


def slow_merge(votes: list[Vote], how: Merge, temperature: float) -> tuple[list[Row], list[int]]:
    """Logits / member temperature, softmax, weighted mean over views and members, ensemble temperature on the log."""
    member_weights = [vote.weight for vote in votes]
    merged: list[Row] = []
    tops: list[int] = []
    for n in range(votes[0].logits.shape[1]):
        members: list[Row] = []
        for vote in votes:
            views: list[Row] = []
            for view in vote.logits[:, n]:
                probs = softmax([float(value) / vote.temperature for value in view])
                views.append([math.log(p) for p in probs] if how == "logits" else probs)
            members.append(mean_rows(views, list(vote.view_weights)))
        mean = mean_rows(members, member_weights)
        if how == "vote":
            counts = [0.0] * len(mean)
            for member, weight in zip(members, member_weights, strict=True):
                counts[member.index(max(member))] += weight / sum(member_weights)
            ahead = [c for c in range(len(mean)) if counts[c] > max(counts) - 1e-9]
            merged.append(counts)
            tops.append(max(ahead, key=lambda c, mean=mean: mean[c]))  # type: ignore[misc]
            continue
        logs = mean if how == "logits" else [math.log(p) for p in mean]
        merged.append(softmax([value / temperature for value in logs]))
        tops.append(merged[-1].index(max(merged[-1])))
    return merged, tops


def random_votes(seed: int, members: int, views: int, scale: float = 2.0) -> list[Vote]:
    rng = np.random.default_rng(seed)
    return [
        Vote(
            (scale * rng.standard_normal((views, 25, 5))).astype((np.float16, np.float32)[m % 2]),
            rng.uniform(0.1, 1, views).tolist(),
            float(rng.uniform(0.1, 3)),
            float(rng.uniform(0.5, 2)),
        )
        for m in range(members)
    ]


def one_view(*probs: Row, weight: float = 1.0) -> Vote:
    """Return the vote of a member that gives image n the probabilities `probs[n]`."""
    return Vote(np.log(np.array([probs])), [1.0], weight)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize(("members", "views"), [(1, 1), (1, 3), (2, 2), (3, 1), (4, 6)])
@pytest.mark.parametrize("how", ["probs", "logits", "vote"])
def test_agrees_with_the_loops(how: Merge, members: int, views: int, temperature: float) -> None:
    votes = random_votes(seed=10 * members + views, members=members, views=views)
    probs, top = merge(votes, how, temperature)
    slow_probs, slow_top = slow_merge(votes, how, temperature)
    np.testing.assert_allclose(probs, slow_probs, rtol=1e-9, atol=1e-12)
    assert top.tolist() == slow_top


def test_the_three_ways_are_those_of_the_interface() -> None:
    assert MERGES == ("probs", "logits", "vote")


def test_mean_of_probabilities_by_hand() -> None:
    probs, top = merge([one_view([0.9, 0.1]), one_view([0.4, 0.6], weight=3)], "probs")
    np.testing.assert_allclose(probs, [[0.525, 0.475]], atol=1e-12)
    assert top.tolist() == [0]


def test_mean_of_logits_is_the_geometric_mean() -> None:
    probs, _ = merge([one_view([0.9, 0.1]), one_view([0.4, 0.6], weight=3)], "logits")
    geometric = np.array([0.9**0.25 * 0.4**0.75, 0.1**0.25 * 0.6**0.75])
    np.testing.assert_allclose(probs, [geometric / geometric.sum()], atol=1e-12)


def test_ensemble_temperature_is_a_power_of_the_merged_probabilities() -> None:
    probs, _ = merge([one_view([0.8, 0.2]), one_view([0.6, 0.4])], "probs", temperature=2)
    roots = np.sqrt([0.7, 0.3])
    np.testing.assert_allclose(probs, [roots / roots.sum()], atol=1e-12)


def test_member_temperature_comes_before_the_softmax() -> None:
    vote = Vote(np.array([[[4.0, 0.0]], [[0.0, 0.0]]]), [0.5, 0.5], temperature=4.0)
    probs, _ = merge([vote], "probs")
    first = (math.e / (1 + math.e) + 0.5) / 2
    np.testing.assert_allclose(probs, [[first, 1 - first]], atol=1e-12)


def test_a_vote_counts_weights() -> None:
    votes = [one_view([0.9, 0.1, 0.0001]), one_view([0.2, 0.7, 0.1], weight=2), one_view([0.1, 0.2, 0.7], weight=1.5)]
    probs, top = merge(votes, "vote")
    np.testing.assert_allclose(probs, [[1 / 4.5, 2 / 4.5, 1.5 / 4.5]], atol=1e-12)
    assert top.tolist() == [1]


def test_a_member_merges_its_views_before_it_votes() -> None:
    # Two views say class 0, barely; the third says class 1, firmly. The member's mean is for class 1: one whole vote.
    vote = Vote(np.log(np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.1, 0.9]]])), [1.0, 1.0, 1.0])
    probs, top = merge([vote], "vote")
    assert probs.tolist() == [[0.0, 1.0]]
    assert top.tolist() == [1]


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [([0.6, 0.4, 0.0001], [0.05, 0.05, 0.9], 2), ([0.99, 0.005, 0.005], [0.3, 0.1, 0.6], 0)],
)
def test_ties_go_to_the_larger_mean_probability(first: Row, second: Row, winner: int) -> None:
    for votes in permutations([one_view(first), one_view(second)]):
        probs, top = merge(list(votes), "vote")
        assert sorted(probs[0].tolist()) == [0.0, 0.5, 0.5]
        assert top.tolist() == [winner]


def test_a_tie_is_never_won_by_a_class_without_votes() -> None:
    # Class 1 has the largest mean probability and nobody's vote.
    votes = [one_view([0.52, 0.48, 0.0001]), one_view([0.0001, 0.48, 0.52])]
    _, top = merge(votes, "vote")
    assert top[0] in {0, 2}


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (0.1, 0.7, 0.8), (0.1, 1.3, 1.4), (1.2, 1.9, 3.1)])
def test_ties_of_weights_that_floats_do_not_add_up_exactly(weights: tuple[float, float, float]) -> None:
    firm, barely = 0.95, 0.55
    for pair, third, winner in ((firm, barely, 0), (barely, firm, 1)):  # the pair is for class 0, the third for class 1
        votes = [one_view([pair, 1 - pair], weight=weight) for weight in weights[:2]]
        votes.append(one_view([1 - third, third], weight=weights[2]))
        assert merge(votes, "vote")[1].tolist() == [winner]


@pytest.mark.parametrize("how", ["probs", "logits", "vote"])
def test_only_the_ratio_of_weights_matters(how: Merge) -> None:
    votes = random_votes(seed=5, members=3, views=2)

    def scaled(factor: float) -> list[Vote]:
        return [
            Vote(v.logits, [3 * w for w in v.view_weights], factor * (v.weight / 3), v.temperature)  # at most `factor`
            for v in votes
        ]

    expected = merge(votes, how)
    for factor in (1e-300, 0.01, 1e3, 1.7e308):
        probs, top = merge(scaled(factor), how)
        np.testing.assert_allclose(probs, expected[0], rtol=1e-9)
        assert top.tolist() == expected[1].tolist()


@pytest.mark.parametrize("how", ["probs", "logits", "vote"])
def test_no_order_of_the_members_matters(how: Merge) -> None:
    votes = random_votes(seed=6, members=3, views=2)
    expected = merge(votes, how)[0]
    for order in permutations(votes):
        np.testing.assert_allclose(merge(list(order), how)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("how", ["probs", "logits", "vote"])
@pytest.mark.parametrize("temperature", [1.0, 0.05, 20.0])
def test_a_distribution_comes_out_even_of_extreme_logits(how: Merge, temperature: float) -> None:
    probs, top = merge(random_votes(seed=7, members=3, views=2, scale=5000.0), how, temperature)
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-9)
    assert ((probs >= 0) & (probs <= 1 + 1e-12)).all()
    assert (probs[np.arange(25), top] == probs.max(1)).all()


@pytest.mark.parametrize("how", ["probs", "logits"])
def test_the_ensemble_temperature_leaves_the_top_class_alone(how: Merge) -> None:
    votes = random_votes(seed=8, members=3, views=2)
    for temperature in (0.3, 4.0):
        assert merge(votes, how, temperature)[1].tolist() == merge(votes, how)[1].tolist()


def test_a_vote_has_no_ensemble_temperature() -> None:
    votes = random_votes(seed=9, members=3, views=2)
    assert merge(votes, "vote", 7.0)[0].tolist() == merge(votes, "vote")[0].tolist()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_log_softmax_against_torch(kind: type[np.floating[Any]]) -> None:
    import torch

    logits: npt.NDArray[Any] = (3 * np.random.default_rng(0).standard_normal((4, 7, 5))).astype(kind)
    wanted = torch.log_softmax(torch.from_numpy(logits.astype(np.float64)), -1).numpy()
    got = log_softmax(logits)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("how", ["probs", "logits"])
def test_one_member_with_one_view_is_its_softmax(how: Literal["probs", "logits"]) -> None:
    (vote,) = random_votes(seed=11, members=1, views=1)
    expected = [softmax([float(x) / vote.temperature for x in row]) for row in vote.logits[0]]
    np.testing.assert_allclose(merge([vote], how)[0], expected, rtol=1e-9)
