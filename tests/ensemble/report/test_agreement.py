"""Members alone and in pairs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.members import parse_members
from ensemble.report import agreement
from ensemble.report.agreement import look_at_members

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
    assert "not among the members" in notes[0]
