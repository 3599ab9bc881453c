"""What a cascade is, what it is not, and what its stages have to run."""

from dataclasses import replace
from typing import Any

import pytest

from ensemble.cascade.stages import Stage, check_stages, steps

NAMES = ("a", "b", "c")
GOOD = (
    Stage(("b",), "none", 1.2, 0.9),
    Stage(("b", "a"), "none", 1.1, 0.8),
    Stage(("b", "a", "c"), "flip", 0.7, 0.0),
)


def check(*stages: Stage, merge: Any = "probs") -> None:  # noqa: ANN401
    check_stages(stages, NAMES, "flip", merge, 0.7)


@pytest.mark.parametrize("stages", [GOOD, GOOD[1:], (replace(GOOD[0], views="flip"), GOOD[2])])
def test_these_are_cascades(stages: tuple[Stage, ...]) -> None:
    check(*stages)
    check(*stages, merge="logits")


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (GOOD[2:], "a cascade has at least two stages, not 1"),
        ((), "at least two stages, not 0"),
        (GOOD[:2], "stage 2 of 2 has the threshold 0.8"),
        ((replace(GOOD[0], members=("x",)), *GOOD[1:]), "stage 1 of 3 has the member 'x', which the ensemble has not"),
        ((replace(GOOD[0], members=("x" * 999,)), *GOOD[1:]), "x" * 40 + "', which"),
        ((replace(GOOD[0], members=()), *GOOD[1:]), "stage 1 of 3 has no member, or one twice"),
        ((replace(GOOD[0], members=("b", "b")), *GOOD[1:]), "no member, or one twice"),
        ((replace(GOOD[0], views="flop"), *GOOD[1:]), "has the views 'flop'"),
        ((replace(GOOD[0], views="crops5"), *GOOD[1:]), "stage 2 does not contain the one before"),
        ((replace(GOOD[0], members=("c",)), *GOOD[1:]), "stage 2 does not contain the one before"),
        ((GOOD[0], GOOD[0], *GOOD[1:]), "stage 2 does not contain the one before, or is the same"),
        ((GOOD[0], replace(GOOD[2], views="flip+shift1")), "views that the ensemble has not"),
        ((GOOD[0], replace(GOOD[1], threshold=0.0)), "the last stage is not the ensemble"),
        ((GOOD[0], replace(GOOD[2], views="none")), "the last stage is not the ensemble"),
        ((*GOOD[:2], replace(GOOD[2], temperature=0.8)), "the last stage is not the ensemble"),
        ((*GOOD[:2], replace(GOOD[2], threshold=0.1)), "stage 3 of 3 has the threshold 0.1"),
        *(
            ((replace(GOOD[0], threshold=bad), *GOOD[1:]), f"stage 1 of 3 has the threshold {bad}")
            for bad in (0.0, -0.5, 1.01, float("nan"), float("inf"))
        ),
        *(
            ((replace(GOOD[0], temperature=bad), *GOOD[1:]), f"stage 1 of 3 has the temperature {bad}")
            for bad in (0.0, -1.0, float("nan"), float("inf"))
        ),
    ],
)
def test_these_are_not(stages: tuple[Stage, ...], says: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        check(*stages)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_vote_has_none() -> None:
    with pytest.raises(ValueError, match="a vote cannot have a cascade"):
        check(*GOOD, merge="vote")


def test_every_pair_is_run_once_and_in_time() -> None:
    found = steps(GOOD, NAMES, "flip")
    assert [step.members for step in found] == [(1,), (0, 1), (0, 1, 2)]
    assert [step.views for step in found] == [(0,), (0,), (0, 1)]
    assert [step.view_weights for step in found] == [(1.0,), (1.0,), (0.5, 0.5)]
    assert [step.new for step in found] == [(((1,), (0,)),), (((0,), (0,)),), (((2,), (0, 1)), ((0, 1), (1,)))]
    assert [(s.temperature, s.threshold) for s in found] == [(1.2, 0.9), (1.1, 0.8), (0.7, 0.0)]
    known: set[tuple[int, int]] = set()
    for step in found:
        assert not known & set(step.pairs)
        assert len(step.pairs) == len(set(step.pairs))
        known |= set(step.pairs)
        assert known == {(m, v) for m in step.members for v in step.views}


def test_views_keep_their_places_in_larger_sets() -> None:
    stages = (
        Stage(("a",), "none", 1, 0.9),
        Stage(("a", "b"), "flip", 1, 0.9),
        Stage(("a", "b"), "flip+shift1", 1, 0),
    )
    check_stages(stages, ("a", "b"), "flip+shift1", "probs", 1)
    found = steps(stages, ("a", "b"), "flip+shift1")
    assert [step.views for step in found] == [(0,), (0, 1), (0, 1, 2, 3, 4, 5)]
    assert found[1].view_weights == (0.5, 0.5)
    assert found[2].new == (((0, 1), (2, 3, 4, 5)),)
