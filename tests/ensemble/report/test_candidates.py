"""What is compared."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.cascade.stages import Stage
from ensemble.fit.costs import multiply_adds as costs
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from ensemble.report.candidates import alone, best_of_pool, from_files, multiply_adds, runnable, teacher_of
from zoo import store

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, None),
        ("fastnet-seed1", "fastnet-seed1"),
        ({"members": [{"name": "a"}, {"name": "b"}], "views": "none"}, "a, b"),
        ({"members": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "views": "flip"}, "a and 2 others + flip"),
        ({"members": "?"}, "an ensemble"),
    ],
)
def test_a_card_says_who_taught(said: str | Mapping[str, Any] | None, words: str | None) -> None:
    card = replace(store.find("fastnet-seed1").card, training={"teacher": said} if said else {})
    assert teacher_of(card) == words


def test_members_alone_come_under_each_view_set(zoo: "Zoo") -> None:
    del zoo
    found = alone(parse_members("tiny-a=0.5,tiny-b"), ("none", "flip"))
    assert [(c.name, c.committee.views, c.kind) for c in found] == [
        (name, views, "member") for name in ("tiny-a", "tiny-b") for views in ("none", "flip")
    ]
    assert {m.weight for c in found for m in c.committee.members} == {1.0}


def test_who_cannot_be_fitted_is_in_no_committee_and_is_named(zoo: "Zoo") -> None:
    del zoo
    found, notes = best_of_pool(parse_members("tiny-a,tiny-b"), ("none",), 3)
    assert found == []
    assert len(notes) == 2
    assert "'tiny-a' cannot take part in a fit" in notes[0]


def test_the_best_of_the_shipped_pool_grow_and_improve_on_the_split_they_were_chosen_on() -> None:
    found, notes = best_of_pool(parse_members("fastnet-seed[1-3]"), ("flip",), 5)
    assert notes == []
    assert [c.name for c in found] == ["best 2 of 3", "best 3 of 3"]
    assert {c.kind for c in found} == {"committee"}
    assert all(runnable(c.committee) for c in found)


def test_a_cascade_comes_with_its_whole_unless_that_is_there(tmp_path: Path) -> None:
    del tmp_path
    members = tuple(parse_members("fastnet-seed1,fastnet-seed2"))
    whole = Committee(members, "flip")
    stages = (Stage(("fastnet-seed1",), "none", 1.0, 0.9), Stage(("fastnet-seed1", "fastnet-seed2"), "flip", 1.0, 0.0))
    staged = replace(whole, cascade=stages)
    assert [(c.name, c.kind) for c in from_files({"c": staged})] == [("c", "cascade"), ("c, whole", "ensemble")]
    assert [c.name for c in from_files({"c": staged, "e": whole})] == ["c", "e"]


def test_multiply_adds_are_those_of_a_fit_and_unknown_if_a_card_is_silent(zoo: "Zoo") -> None:
    del zoo
    members = tuple(parse_members("fastnet-seed1,wrn16-4-seed1"))
    cards = [store.find(m.name).card for m in members]
    assert multiply_adds(Committee(members, "flip")) == pytest.approx(costs(cards, "flip").sum())
    assert multiply_adds(Committee((*members, *parse_members("tiny-a")), "flip")) is None
