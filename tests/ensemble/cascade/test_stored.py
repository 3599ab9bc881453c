"""Which stage answers for which image, against a loop over the images."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.cascade.stages import Stage
from ensemble.cascade.stored import answers, describe, stage_costs, stored_exits
from ensemble.merge import Vote, merge
from ensemble.metrics import brier, ece, nll, wilson_interval
from tests.ensemble.cascade.conftest import MadeUp

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

Make = Callable[..., MadeUp]


def staged(made: MadeUp, *cuts: float) -> MadeUp:
    """Three stages with these thresholds: one member, two of them, all with flip."""
    cascade = (
        Stage(("m2",), "none", 1.3, cuts[0]),
        Stage(("m2", "m0"), "none", 0.9, cuts[1]),
        Stage(("m2", "m0", "m1"), "flip", 1.1, 0.0),
    )
    return replace(made, committee=replace(made.committee, cascade=cascade))


@pytest.mark.parametrize("how", ["probs", "logits"])
def test_every_image_leaves_at_the_first_stage_that_is_sure(make: Make, how: Any) -> None:  # noqa: ANN401
    made = staged(make(3, 120, merge=how), 0.9, 0.7)
    exits = stored_exits(made.committee, made.ballots.votes)
    assert set(exits.stage) == {0, 1, 2}
    chosen = [((2,), [0], 1.3, 0.9), ((0, 2), [0], 0.9, 0.7), ((0, 1, 2), [0, 1], 1.1, 0.0)]
    for i in range(120):
        for number, (members, views, temperature, cut) in enumerate(chosen):
            some = [made.ballots.votes[m] for m in members]
            own = [Vote(v.logits[views, i : i + 1], [1.0] * len(views), v.weight, v.temperature) for v in some]
            probs, top = merge(own, how, temperature)
            if probs.max() >= cut:
                assert (exits.stage[i], exits.top[i]) == (number, top[0])
                np.testing.assert_allclose(exits.probs[i], probs[0], atol=1e-12)
                break
    whole = merge(made.ballots.votes, how, made.committee.temperature)
    last = exits.stage == 2
    np.testing.assert_array_equal(exits.probs[last], whole[0][last])  # exactly
    np.testing.assert_array_equal(exits.top[last], whole[1][last])


def test_a_threshold_that_is_met_lets_leave(make: Make) -> None:
    made = make(3, 50)
    alone = Vote(made.ballots.votes[2].logits[:1], [1.0], temperature=made.ballots.votes[2].temperature)
    probs, _ = merge([alone], "probs", 1.3)
    surest = float(probs.max())
    assert (stored_exits(staged(made, surest, 1.0).committee, made.ballots.votes).stage == 0).sum() == 1
    beyond = float(np.nextafter(surest, 2))
    assert not (stored_exits(staged(made, beyond, 1.0).committee, made.ballots.votes).stage == 0).any()


def test_answers_with_and_without_a_cascade(make: Make) -> None:
    made = make(3, 80)
    votes, committee = made.ballots.votes, staged(made, 0.8, 0.8).committee
    exits = stored_exits(committee, votes)
    for of, wanted in ((made.committee, merge(votes, "probs", 1.1)), (committee, (exits.probs, exits.top))):
        probs, top = answers(of, votes)
        np.testing.assert_array_equal(probs, wanted[0])
        np.testing.assert_array_equal(top, wanted[1])
    assert not np.array_equal(exits.probs, merge(votes, "probs", 1.1)[0])


def test_the_description_is_counted(make: Make) -> None:
    made = staged(make(3, 300), 0.5, 0.45)
    votes, labels = made.ballots.votes, made.ballots.labels
    exits = stored_exits(made.committee, votes)
    found = describe(made.committee, votes, exits, labels)
    probs, top = merge(votes, "probs", 1.1)
    assert found["agreement"] == (exits.top == top).sum() / 300
    assert found["agreement"] < 1
    assert [s["share"] for s in found["stages"]] == [(exits.stage == k).sum() / 300 for k in range(3)]
    for k, stage in enumerate(found["stages"]):
        rows = exits.stage == k
        assert stage["accuracy"] == (exits.top[rows] == labels[rows]).sum() / rows.sum()
    assert found["whole"] == {
        "accuracy": float((top == labels).mean()),
        "accuracy_ci95": list(wilson_interval(int((top == labels).sum()), 300)),
        "nll": nll(probs, labels),
        "brier": brier(probs, labels),
        "ece": ece(probs, labels, top),
    }
    # These members are no entries, so nobody knows what they cost.
    assert found["multiply_adds"] is found["of_whole"] is found["stages"][0]["multiply_adds"] is None


def test_a_stage_where_nobody_leaves(make: Make) -> None:
    made = staged(make(3, 40), 1.0, 1.0)
    exits = stored_exits(made.committee, made.ballots.votes)
    found = describe(made.committee, made.ballots.votes, exits, made.ballots.labels)
    assert [(s["share"], s["accuracy"] is None) for s in found["stages"]] == [(0, True), (0, True), (1, False)]
    assert found["agreement"] == 1


def test_multiply_adds_are_the_cards(zoo: "Zoo") -> None:
    members = []
    for cost, member in zip((10, 200, 3000), zoo.committee("tiny-*").members, strict=True):
        entry = zoo.entry(member.name)
        vars(entry)["card"] = replace(entry.card, multiply_adds=cost)
        members.append(replace(member, origin=entry))
    cascade = (
        Stage(("tiny-b",), "none", 1, 0.9),
        Stage(("tiny-b",), "flip", 1, 0.9),
        Stage(("tiny-b", "tiny-a"), "flip", 1, 0.9),
        Stage(("tiny-b", "tiny-a", "tiny-c"), "flip", 1, 0),
    )
    committee = replace(zoo.committee("tiny-*"), members=tuple(members), cascade=cascade)
    assert stage_costs(committee) == [200, 400, 420, 6420]
    silent = replace(committee, members=(members[0], zoo.committee("tiny-b").members[0], members[2]))
    assert stage_costs(silent) is None
