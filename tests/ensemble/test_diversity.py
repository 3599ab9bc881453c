"""Diversity against naive loops, scikit-learn, scipy and examples worked by hand."""

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import matthews_corrcoef

from ensemble.diversity import (
    disagreement,
    diversity,
    double_fault,
    error_correlation,
    mean_over_pairs,
    mutual_information,
    pairwise_information,
    q_statistic,
)
from zoo.errors import UsageError

Array = npt.NDArray[np.float64]
Right = npt.NDArray[np.bool_]

# N11 = 5, N10 = 1, N01 = 2, N00 = 2.
HAND = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 1, 1, 0, 0]], bool)


def pool(seed: int, members: int = 4, images: int = 60, classes: int = 5) -> Array:
    """Return probabilities `[M, N, C]` of members that share part of what they say."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((1, images, classes)) + rng.standard_normal((members, images, classes))
    probs: Array = np.exp(2 * logits)
    probs /= probs.sum(2, keepdims=True)
    return probs


def mistakes(seed: int = 0, members: int = 5, images: int = 80) -> Right:
    rng = np.random.default_rng(seed)
    easy = rng.random(images)
    return rng.random((members, images)) < 0.2 + 0.7 * easy


def counts(right: Right, i: int, j: int) -> tuple[int, int, int, int]:
    """N11, N10, N01, N00 of a pair, image by image."""
    seen = [(bool(a), bool(b)) for a, b in zip(right[i], right[j], strict=True)]
    return seen.count((True, True)), seen.count((True, False)), seen.count((False, True)), seen.count((False, False))


def test_measures_by_hand() -> None:
    assert disagreement(HAND)[0, 1] == pytest.approx(3 / 10)
    assert q_statistic(HAND)[0, 1] == pytest.approx((5 * 2 - 1 * 2) / (5 * 2 + 1 * 2))
    assert error_correlation(HAND)[0, 1] == pytest.approx((5 * 2 - 1 * 2) / math.sqrt(6 * 4 * 7 * 3))
    assert double_fault(HAND).tolist() == [[0.4, 0.2], [0.2, 0.3]]


def test_pairs_against_loops() -> None:
    right = mistakes()
    q, phi, both = q_statistic(right), error_correlation(right), double_fault(right)
    assert phi == pytest.approx(np.corrcoef(right.astype(float)), abs=1e-12)
    for i in range(5):
        for j in range(5):
            n11, n10, n01, n00 = counts(right, i, j)
            assert q[i, j] == pytest.approx((n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10), abs=1e-12)
            assert phi[i, j] == pytest.approx(matthews_corrcoef(right[i], right[j]), abs=1e-12)
            assert both[i, j] == pytest.approx(n00 / 80, abs=1e-12)


def test_disagreement_is_over_classes() -> None:
    tops = pool(1).argmax(2)
    matrix = disagreement(tops)
    for i in range(4):
        for j in range(4):
            assert matrix[i, j] == pytest.approx(float((tops[i] != tops[j]).mean()), abs=1e-12)
    assert 0.1 < mean_over_pairs(matrix) < 0.9
    # Both wrong in different classes: they disagree, though neither is right alone.
    assert disagreement(np.array([[1, 0], [2, 0]]))[0, 1] == 0.5
    assert disagreement(np.array([[1, 0], [2, 0]]) == 0)[0, 1] == 0


def test_many_members_at_once() -> None:
    tops = np.random.default_rng(0).integers(0, 10, (200, 500))
    matrix = disagreement(tops)
    assert matrix[3, 150] == pytest.approx(float((tops[3] != tops[150]).mean()), abs=1e-12)
    assert mean_over_pairs(matrix) == pytest.approx(0.9, abs=0.005)  # of guesses among ten classes


@pytest.mark.parametrize("measure", [q_statistic, error_correlation])
def test_members_that_never_vary_have_defined_values(measure: object) -> None:
    assert callable(measure)
    some = np.array([True, True, False, False])
    always, never = np.ones(4, bool), np.zeros(4, bool)
    matrix = measure(np.stack([some, always, never, some, always, ~some]))
    assert matrix.tolist() == [
        [1, 0, 0, 1, 0, -1],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, -1],
        [0, 1, 0, 0, 1, 0],
        [-1, 0, 0, -1, 0, 1],
    ]


def test_independent_mistakes_have_neither_q_nor_correlation() -> None:
    right = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    assert q_statistic(right)[0, 1] == error_correlation(right)[0, 1] == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
@settings(max_examples=80)
def test_every_value_is_in_its_range_and_symmetric(images: list[tuple[bool, bool, bool]]) -> None:
    right = np.array(images).T
    for measure, low in ((disagreement, 0), (q_statistic, -1), (error_correlation, -1), (double_fault, 0)):
        matrix = measure(right)
        assert np.isfinite(matrix).all()
        assert low <= matrix.min() <= matrix.max() <= 1
        np.testing.assert_array_equal(matrix, matrix.T)
    # Kuncheva & Whitaker: |phi| <= |Q|, of the same sign.
    q, phi = q_statistic(right), error_correlation(right)
    assert (np.abs(phi) <= np.abs(q) + 1e-12).all()
    assert (phi * q >= 0).all()


def test_information_against_a_loop() -> None:
    probs = pool(2, members=3, images=20)
    weights = [2.0, 1.0, 1.0]
    information = mutual_information(probs, weights)
    for n in range(20):
        mixed = [sum(w / 4 * probs[m, n, c] for m, w in enumerate(weights)) for c in range(5)]
        entropy = -sum(p * math.log(p) for p in mixed)
        each = [-sum(p * math.log(p) for p in probs[m, n]) for m in range(3)]
        wanted = entropy - sum(w / 4 * e for w, e in zip(weights, each, strict=True))
        assert information[n] == pytest.approx(wanted, abs=1e-12)
        # The same from the other side: the mean divergence of members from their mixture.
        divergence = sum(
            w / 4 * sum(p * math.log(p / q) for p, q in zip(probs[m, n], mixed, strict=True))
            for m, w in enumerate(weights)
        )
        assert information[n] == pytest.approx(divergence, abs=1e-12)


def test_information_by_hand() -> None:
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert mutual_information(sure)[0] == pytest.approx(math.log(2))  # two sure members that contradict each other
    unsure = np.full((2, 1, 2), 0.5)
    assert mutual_information(unsure)[0] == 0  # agreed not to know
    # One sure, one at one half: H(3/4, 1/4) - H(1/2, 1/2) / 2.
    mixed = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    wanted = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - math.log(2) / 2
    assert mutual_information(mixed)[0] == pytest.approx(wanted)
    assert mutual_information(sure, [1, 3])[0] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_information_is_at_most_that_of_naming_the_member() -> None:
    information = mutual_information(pool(3, members=6, images=300))
    assert 0 <= information.min() < information.max() <= math.log(6)


def test_pairwise_information_is_the_jensen_shannon_divergence() -> None:
    probs = pool(4, members=3, images=25)
    matrix = pairwise_information(probs)
    for i in range(3):
        for j in range(3):
            wanted = np.mean([jensenshannon(p, q) ** 2 for p, q in zip(probs[i], probs[j], strict=True)])
            assert matrix[i, j] == pytest.approx(wanted, abs=1e-12)
    assert matrix[0, 1] == pytest.approx(mutual_information(probs[:2]).mean(), abs=1e-12)
    assert matrix.diagonal().tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_floats_are_summed_in_double(dtype: type[np.floating]) -> None:
    probs = np.full((2, 5000, 4), 0.25, dtype)
    assert mutual_information(probs).tolist() == [0] * 5000
    assert pairwise_information(probs).tolist() == [[0, 0], [0, 0]]


def test_the_whole_pool() -> None:
    probs = pool(5)
    labels = np.random.default_rng(5).integers(0, 5, 60)
    found = diversity(probs, labels)
    right = probs.argmax(2) == labels
    means = found.means()
    pairs = [(i, j) for i in range(4) for j in range(i)]
    for name, matrix in (
        ("disagreement", disagreement(probs.argmax(2))),
        ("q_statistic", q_statistic(right)),
        ("error_correlation", error_correlation(right)),
        ("double_fault", double_fault(right)),
        ("pairwise_information", pairwise_information(probs)),
    ):
        assert means[name] == pytest.approx(sum(matrix[p] for p in pairs) / 6, abs=1e-12)
        np.testing.assert_array_equal(found.to_dict()[name], matrix)
    assert means["mutual_information"] == pytest.approx(mutual_information(probs).mean())
    assert json.loads(json.dumps(found.to_dict()))["means"] == means


def test_identical_members() -> None:
    probs = np.repeat(pool(6, members=1), 3, axis=0)
    means = diversity(probs, np.zeros(60, np.int64)).means()
    assert means["disagreement"] == 0
    assert means["q_statistic"] == means["error_correlation"] == 1
    assert means["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert means["pairwise_information"] == 0


def test_a_single_member_has_no_diversity() -> None:
    with pytest.raises(UsageError, match="two or more members"):
        diversity(pool(7, members=1), np.zeros(60, np.int64))
    with pytest.raises(UsageError, match="two or more members"):
        mean_over_pairs(np.ones((1, 1)))
