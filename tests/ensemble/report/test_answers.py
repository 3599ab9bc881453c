"""What committees say, and of which images."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.cascade.stages import Stage
from ensemble.cascade.stored import describe, stored_exits
from ensemble.evaluate import SplitSource, stored_ballots
from ensemble.members import parse_members
from ensemble.merge import merge
from ensemble.report.answers import fingerprint_of, images_of, say
from zoo.errors import NotFoundError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


def test_a_committee_says_what_its_merge_says(knowing: "Zoo") -> None:
    committee = knowing.committee("tiny-a,tiny-b=3", "flip", "logits", 0.7)
    votes = stored_ballots(committee, knowing.split_source()).votes
    said = say(committee, votes)
    np.testing.assert_array_equal(said.answers.probs, merge(votes, "logits", 0.7)[0])
    assert said.stages == ()
    assert said.multiply_adds == pytest.approx((1 + 2) * 2 * 1e-3)
    assert not say(replace(committee, merge="vote"), votes).answers.likelihood


def test_a_cascade_says_what_its_stages_say_and_costs_what_they_cost(knowing: "Zoo") -> None:
    committee = knowing.committee("tiny-a,tiny-b", "flip")
    stages = (Stage(("tiny-a",), "none", 1.0, 0.15), Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0))
    cascade = replace(committee, cascade=stages)
    ballots = stored_ballots(cascade, knowing.split_source())
    said, exits = say(cascade, ballots.votes), stored_exits(cascade, ballots.votes)
    expected = describe(cascade, ballots.votes, exits, ballots.labels)
    np.testing.assert_array_equal(said.answers.top, exits.top)
    assert [s.share for s in said.stages] == [s["share"] for s in expected["stages"]]
    assert said.multiply_adds == pytest.approx(expected["multiply_adds"] / 1e9)
    assert 0 < said.stages[0].share < 1, "both stages answer"


def test_images_at_hand_must_be_those_of_the_predictions(zoo: "Zoo") -> None:
    source = zoo.split_source()
    mark = fingerprint_of(parse_members("tiny-*"), source)
    assert mark == zoo.split.fingerprint
    assert images_of(source, mark) == (source.split, None)
    split, problem = images_of(source, "0" * 64)
    assert split is None
    assert problem == "mistakes have no pictures: the test images at hand are not those of the predictions"
    split, problem = images_of(SplitSource("cifar100", "test"), mark)
    assert split is None
    assert "mistakes have no pictures: " in str(problem)


def test_a_split_that_nobody_has_predictions_for_is_an_error(zoo: "Zoo") -> None:
    with pytest.raises(NotFoundError, match="no member of the pool has predictions for the other split"):
        fingerprint_of(parse_members("tiny-a"), zoo.split_source("other"))


def test_a_folder_that_is_not_there_is_what_is_said(zoo: "Zoo", tmp_path: Path) -> None:
    del zoo
    with pytest.raises(NotFoundError, match=r"data folder .*nowhere' does not exist"):
        fingerprint_of(parse_members("tiny-a"), SplitSource("cifar10", "test", tmp_path / "nowhere"))
