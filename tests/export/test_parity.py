"""The gate's comparison: what it counts, and what it lets through."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble.cascade.run import Cascade
from ensemble.module import Ensemble
from export.metadata import PRECISIONS
from export.parity import LIMITS, Expected, Limits, Parity, compare, expected_answer
from export.runtime.answer import Answer, Floats
from tests.conftest import random_split
from tests.export.conftest import EXACT, torch_says
from zoo.data import Split

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

IMAGES = 1200
SPLIT = random_split(IMAGES, classes=4, size=4)


class Graph:
    """A session that answers from a table, in the order in which it is asked."""

    provider = "CPUExecutionProvider"

    def __init__(self, probs: Floats, stage: npt.NDArray[np.intp] | None = None, own: Floats | None = None) -> None:
        self.probs, self.stage, self.own, self.batches = probs, stage, own, list[int]()

    def answer(self, images: npt.NDArray[np.uint8]) -> Answer:
        rows = slice(sum(self.batches), sum(self.batches) + len(images))
        self.batches.append(len(images))
        own = None if self.own is None else self.own[rows]
        return Answer(self.probs[rows], own, None if self.stage is None else self.stage[rows])


def sure(classes: npt.NDArray[np.int64], most: float = 0.7) -> Floats:
    """Return probabilities of which those of some classes are the largest."""
    probs = np.full((len(classes), 4), (1 - most) / 3, np.float32)
    probs[np.arange(len(classes)), classes] = most
    return probs


def outcome(found: Floats, limits: Limits, expected: Floats | None = None) -> Parity:
    wanted = sure(SPLIT.labels) if expected is None else expected
    return compare(Graph(found), Expected(wanted, wanted.argmax(1), None), SPLIT, limits, dataset="d", name="test")


def changed(images: int, *, right: bool = False) -> tuple[Floats, Floats]:
    """Return what PyTorch and what a graph says, with other classes on some images; PyTorch's are wrong if `right`."""
    other = SPLIT.labels.copy()
    other[:images] = (other[:images] + 1) % 4
    pair = sure(SPLIT.labels), sure(other)
    return pair[::-1] if right else pair


def test_what_is_counted() -> None:
    expected, found = changed(3)
    found[100] = [0.1, 0.2, 0.3, 0.4]
    expected[100] = [0.1, 0.2, 0.25, 0.45]
    done: list[int] = []
    graph = Graph(found)
    said = compare(
        graph,
        Expected(expected, expected.argmax(1), None),
        SPLIT,
        Limits(),
        dataset="d",
        name="t",
        progress=done.append,
    )
    right = SPLIT.labels[100] == 3
    assert vars(said) == {
        "dataset": "d",
        "split": "t",
        "fingerprint": SPLIT.fingerprint,
        "images": IMAGES,
        "provider": "CPUExecutionProvider",
        "agreement": 1 - 3 / IMAGES,
        "difference": pytest.approx(0.6, abs=1e-6),
        "accuracy": pytest.approx(1 - (3 + (not right)) / IMAGES),
        "expected_accuracy": pytest.approx(1 - (not right) / IMAGES),
        "moved": 0,
        "members": None,
        "misses": (),
    }
    assert said.passed
    assert done == graph.batches == [500, 500, 200]


@pytest.mark.parametrize(
    ("precision", "images", "right", "passed"),
    [
        ("fp32", 0, False, True),
        ("fp32", 1, False, False),
        ("fp16", 1, False, True),
        ("fp16", 2, False, False),
        ("fp16", 2, True, False),
        ("int8", 2, False, True),
        ("int8", 3, False, False),
        ("int8", 1200, True, True),
    ],
)
def test_other_classes(precision: str, images: int, right: bool, passed: bool) -> None:
    expected, found = changed(images, right=right)
    limits = replace(LIMITS[precision], difference=1.0)
    assert outcome(found, limits, expected).passed is passed


def test_the_limits_are_those_that_are_promised() -> None:
    assert set(LIMITS) == set(PRECISIONS)
    assert (LIMITS["fp32"].agreement, LIMITS["fp32"].difference) == (1, 1e-4)
    assert LIMITS["fp16"].agreement == 0.999
    assert LIMITS["int8"].loss == 0.002


@pytest.mark.parametrize(("most", "passed"), [(0.70009, True), (0.70012, False)])
def test_other_probabilities(most: float, passed: bool) -> None:
    said = outcome(sure(SPLIT.labels, most), LIMITS["fp32"])
    assert said.passed is passed
    assert passed or said.misses == ("a probability differs by 1.2e-04, more than 0.0001",)


def test_two_tenths_of_a_point_are_allowed() -> None:
    images = random_split(1000, classes=4, size=4)
    labels = images.labels.copy()
    labels[:2] = (labels[:2] + 1) % 4
    wanted = Expected(sure(images.labels), images.labels, None)
    assert compare(Graph(sure(labels)), wanted, images, LIMITS["int8"], dataset="d", name="t").passed


def test_words() -> None:
    said = outcome(changed(5)[1], Limits(agreement=0.999, difference=0.1, loss=0.002))
    assert said.misses == (
        "the same class on 99.58 %, not 99.9 %",
        "a probability differs by 6.0e-01, more than 0.1",
        "0.42 points less accurate, more than 0.2",
    )
    assert not said.passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_never_passes(value: float, precision: str) -> None:
    found = sure(SPLIT.labels)
    found[7, SPLIT.labels[7]] = value
    said = outcome(found, LIMITS[precision])
    assert "some probabilities are not finite" in said.misses


@pytest.mark.parametrize(("given", "passed"), [(True, False), (False, True)])
def test_members_own_probabilities_count_if_the_graph_gives_them(given: bool, passed: bool) -> None:
    probs = sure(SPLIT.labels)
    own = np.stack([probs, probs], 1)
    other = own.copy()
    other[3, 1] = 0.25
    expected = Expected(probs, probs.argmax(1), None, own)
    graph = Graph(probs, own=other if given else None)
    said = compare(graph, expected, SPLIT, LIMITS["fp32"], dataset="d", name="t")
    assert said.passed is passed
    assert said.difference == pytest.approx(0.45 if given else 0, abs=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_wrong_members_never_pass_behind_a_right_committee(precision: str, value: float) -> None:
    probs = sure(SPLIT.labels)
    own = np.stack([probs, probs], 1)
    wrong = own.copy()
    wrong[:, 1] = 0
    wrong[:, 1, 0] = value
    expected = Expected(probs, probs.argmax(1), None, own)
    said = compare(Graph(probs, own=wrong), expected, SPLIT, LIMITS[precision], dataset="d", name="t")
    assert any("members' classes" in miss for miss in said.misses)
    assert ("some probabilities are not finite" in said.misses) is bool(np.isnan(value))
    assert said.members is not None
    assert said.members < 0.98


def staged(moved: int) -> Parity:
    """Compare a cascade of which some images leave at another stage, with other probabilities."""
    stage = np.arange(IMAGES) % 3
    other = stage.copy()
    other[:moved] = (other[:moved] + 1) % 3
    probs = sure(SPLIT.labels)
    found = probs.copy()
    found[:moved] = sure(SPLIT.labels, 0.9)[:moved]
    expected = Expected(probs, probs.argmax(1), stage)
    return compare(Graph(found, other), expected, SPLIT, LIMITS["fp32"], dataset="d", name="t")


def test_a_few_images_may_leave_a_cascade_elsewhere() -> None:
    said = staged(1)
    assert (said.passed, said.moved, said.difference) == (True, 1, 0)


@pytest.mark.parametrize("moved", [2, IMAGES])
def test_many_may_not(moved: int) -> None:
    (miss,) = staged(moved).misses
    assert miss == f"{moved:,} of 1,200 images leave the cascade at another stage, more than 0.1 %"


@given(st.floats(1e-30, 1))
def test_the_difference_is_rounded_up_to_two_digits(difference: float) -> None:
    said = Parity("d", "test", "0" * 64, 1, "CPU", 1.0, difference, 1.0, 1.0, 0, None, ())
    rounded = said.to_dict()["difference"]
    assert difference * (1 - 1e-12) <= rounded <= difference * 1.1
    assert rounded == float(f"{rounded:.1e}")


def test_as_json() -> None:
    table = outcome(changed(5)[1], LIMITS["fp32"]).to_dict()
    assert table["passed"] is False
    assert table["misses"] == list(outcome(changed(5)[1], LIMITS["fp32"]).misses)
    assert json.loads(json.dumps(table)) == table
    assert outcome(sure(SPLIT.labels), LIMITS["fp32"]).to_dict()["difference"] == 0


def test_what_pytorch_is_expected_to_say(workshop: "Workshop", seen: Split) -> None:
    committee = workshop.committee("abc", "flip", "vote", 1.0)
    done: list[int] = []
    said = expected_answer(Ensemble(committee), seen.images, done.append)
    probs, own, top = torch_says(committee, seen.images)
    np.testing.assert_allclose(said.probs, probs, atol=EXACT)
    assert said.member_probs is not None
    np.testing.assert_allclose(said.member_probs, own, atol=EXACT)
    np.testing.assert_array_equal(said.top, top)
    assert (said.stage, done) == (None, [60])


def test_and_by_early_exits(workshop: "Workshop", seen: Split) -> None:
    committee = workshop.cascade()
    cascade = Cascade(Ensemble(committee), committee)
    said = expected_answer(cascade, seen.images)
    with torch.inference_mode():
        exits = cascade.exits(torch.from_numpy(seen.images))
    np.testing.assert_allclose(said.probs, exits.probs, atol=EXACT)
    np.testing.assert_array_equal(said.stage, exits.stage)
    np.testing.assert_array_equal(said.top, exits.top)
