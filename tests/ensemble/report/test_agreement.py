"""Members alone and in pairs."""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import matthews_corrcoef

from ensemble.evaluate import stored_ballots
from ensemble.members import parse_members
from ensemble.report import agreement
from ensemble.report.agreement import how_diverse, look_at_members

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


def test_pairs_agree_as_often_as_their_classes_are_the_same(knowing: "Zoo") -> None:
    rows, found, notes = look_at_members(parse_members("tiny-*"), "none", knowing.split_source())
    assert notes == []
    assert found is not None
    tops = {name: knowing.logits(name).argmax(1) for name in found.names}
    for i, a in enumerate(found.names):
        for j, b in enumerate(found.names):
            assert found.same[i][j] == pytest.approx(np.mean(tops[a] == tops[b]))
    assert [row.scores.accuracy for row in rows] == sorted((row.scores.accuracy for row in rows), reverse=True)
    assert {row.name: row.teacher for row in rows} == {"tiny-a": None, "tiny-b": None, "tiny-c": "tiny-a"}


def test_of_many_members_the_most_accurate_are_shown(knowing: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SHOWN", 2)
    rows, found, _ = look_at_members(parse_members("tiny-*"), "none", knowing.split_source())
    assert found is not None
    assert (len(rows), found.names, found.left_out) == (3, tuple(row.name for row in rows[:2]), 1)


def test_one_member_agrees_with_nobody_and_a_missing_one_is_named(zoo: "Zoo", tmp_path: Path) -> None:
    file = tmp_path / "other.npz"
    np.savez(file, logits=zoo.logits("tiny-a")[:5], labels=zoo.split.labels[:5])
    rows, found, notes = look_at_members(parse_members(f"tiny-a,{file}"), "none", zoo.split_source())
    assert [row.name for row in rows] == ["tiny-a"]
    assert found is None
    assert len(notes) == 1
    assert notes[0].startswith("left out: ")


def test_members_that_lack_views_are_named_in_one_command(zoo: "Zoo") -> None:
    rows, found, notes = look_at_members(parse_members("tiny-*"), "crops5", zoo.split_source())
    assert (rows, found, len(notes)) == ((), None, 1)
    assert "run `ensemble eval --members tiny-a,tiny-b,tiny-c --tta crops5 --split test --data " in notes[0]


def test_diversity_is_of_the_members_as_they_are_in_the_committee(zoo: "Zoo") -> None:
    """Each pair by hand, with another library's correlation and scipy's entropy."""
    committee = zoo.committee("tiny-a,tiny-b=3,tiny-c", "flip", temperature=2.0)
    found = how_diverse(committee, stored_ballots(committee, zoo.split_source()))
    assert found is not None
    assert (found.views, found.names) == ("flip", ("tiny-a", "tiny-b", "tiny-c"))
    probs = np.stack(
        [np.mean([softmax(zoo.logits(name, view), axis=1) for view in ("none", "flip")], 0) for name in found.names]
    )
    tops = probs.argmax(2)
    right = tops == zoo.split.labels
    pairs = list(combinations(range(3), 2))
    assert found.disagreement == pytest.approx(np.mean([np.mean(tops[a] != tops[b]) for a, b in pairs]))
    assert found.double_fault == pytest.approx(np.mean([np.mean(~right[a] & ~right[b]) for a, b in pairs]))
    correlations = [matthews_corrcoef(right[a], right[b]) for a, b in pairs]
    assert found.error_correlation == pytest.approx(np.mean(correlations))
    assert found.q_statistic <= 1

    def information(some: list[int]) -> float:
        each = np.mean([entropy(probs[m], axis=1) for m in some], 0)
        return float(np.mean(entropy(probs[some].mean(0), axis=1) - each))

    assert found.pairwise_information == pytest.approx(np.mean([information([a, b]) for a, b in pairs]))
    assert found.mutual_information == pytest.approx(information([0, 1, 2]))


def test_one_member_has_no_diversity_and_a_vote_has(zoo: "Zoo") -> None:
    one, vote = zoo.committee("tiny-a"), zoo.committee(merge="vote")
    source = zoo.split_source()
    assert how_diverse(one, stored_ballots(one, source)) is None
    assert how_diverse(vote, stored_ballots(vote, source)) == how_diverse(
        zoo.committee(), stored_ballots(zoo.committee(), source)
    )
