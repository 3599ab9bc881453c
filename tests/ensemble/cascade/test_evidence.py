"""What a stage says, against the code that merges committees and a plain loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ensemble.merge import Vote, merge
from tests.ensemble.cascade.conftest import MadeUp
from tta import view_set

Make = Callable[..., MadeUp]
SHAPES = [((2,), "none"), ((2, 0), "none"), ((2, 0), "flip"), ((0, 1, 2), "none"), ((0, 1, 2), "flip")]


def votes_of(made: MadeUp, members: tuple[int, ...], views: str) -> list[Vote]:
    """The votes of some members under some views, picked by hand."""
    names = [view.name for view in view_set(made.committee.views)]
    columns = [names.index(view.name) for view in view_set(views)]
    weights = [view.weight for view in view_set(views)]
    some = [made.ballots.votes[m] for m in members]
    return [Vote(v.logits[columns], weights, v.weight, v.temperature) for v in some]


@pytest.mark.parametrize("how", ["probs", "logits"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stage_says_what_its_members_merge_to(make: Make, how: Any, shape: tuple[Any, str]) -> None:  # noqa: ANN401
    made = make(3, 200, merge=how)
    evidence = made.evidence
    temperature, signal = evidence.fitted(shape)
    probs, top = merge(votes_of(made, *shape), how, temperature)
    np.testing.assert_allclose(signal.confidence, probs.max(1), atol=1e-9)
    np.testing.assert_array_equal(signal.top, top)

    def loss(t: float) -> float:
        said = merge(votes_of(made, *shape), how, t)[0]
        return float(-np.log(said[np.arange(200), made.ballots.labels]).mean())

    best = minimize_scalar(loss, bounds=(0.1, 5), method="bounded", options={"xatol": 1e-6})
    assert temperature == pytest.approx(best.x, rel=2e-3)


def test_drops_are_those_of_a_loop(make: Make) -> None:
    made = make(3, 150)
    evidence = made.evidence
    whole, top = merge(made.ballots.votes, "probs", evidence.fitted(evidence.whole)[0])
    np.testing.assert_allclose(evidence.target, whole, atol=1e-6)
    signal = evidence.signal(((1,), "none"), 1.0)
    own = merge(votes_of(made, (1,), "none"), "probs")[1]
    for i, label in enumerate(made.ballots.labels):
        assert signal.differs[i] == (own[i] != top[i])
        assert signal.expected[i] == pytest.approx(whole[i, top[i]] - whole[i, own[i]], abs=1e-6)
        assert signal.lost[i] == int(top[i] == label) - int(own[i] == label)
    assert signal.differs.any()
    assert (signal.expected >= 0).all()
    assert not evidence.fitted(evidence.whole)[1].differs.any()


def test_what_is_expected_is_what_is_lost_on_average(make: Make) -> None:
    made = make(3, 20_000)
    signal = made.evidence.fitted(((0,), "none"))[1]
    error = signal.lost.std() / np.sqrt(len(signal.lost))
    assert signal.expected.mean() == pytest.approx(signal.lost.mean(), abs=4 * error)
    assert signal.expected.mean() > 10 * error
    # That is why it is trusted with few images: it varies less.
    assert signal.expected.std() < 0.85 * signal.lost.std()


def test_costs_are_of_all_views_and_only_what_is_new_is_added(make: Make) -> None:
    evidence = make(3, 20).evidence  # a view of them costs 1, 2 and 3
    assert [evidence.cost(shape) for shape in SHAPES] == [3, 4, 8, 6, 12]
    assert evidence.added_costs([SHAPES[0], SHAPES[2], SHAPES[4]]) == [3, 5, 4]
    assert evidence.whole == ((0, 1, 2), "flip")


def test_some_of_the_images(make: Make) -> None:
    evidence = make(2, 60).evidence
    rows = np.arange(60) % 3 == 1
    some = evidence.rows(rows)
    all_say, some_say = (one.signal(((1,), "flip"), 0.7) for one in (evidence, some))
    np.testing.assert_array_equal(all_say.confidence[rows], some_say.confidence)
    np.testing.assert_array_equal(all_say.lost[rows], some_say.lost)
    assert len(some.labels) == 20
    assert some.fitted(((0,), "none"))[0] != evidence.fitted(((0,), "none"))[0]


@pytest.mark.parametrize(
    ("views", "sets"),
    [
        ("none", {"none"}),
        ("flip", {"none", "flip"}),
        ("flip+shift1", {"none", "flip", "flip+shift1"}),
        ("crops5", {"none", "crops5"}),
    ],
)
def test_view_sets_are_those_within_the_committees(make: Make, views: str, sets: set[str]) -> None:
    assert set(make(2, 20, views=views).evidence.parts) == sets
