"""Metrics against scikit-learn, torch, torchmetrics, plain loops and published values."""

import math
import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from ensemble.metrics import (
    accuracy,
    adaptive_ece,
    aurc,
    brier,
    brier_each,
    class_scores,
    confidences,
    confusion,
    ece,
    nll,
    nll_each,
    selective_risk,
    wilson_interval,
)

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def outcome(seed: int, images: int = 500, classes: int = 10, sharpness: float = 1.5) -> tuple[Array, Labels]:
    """Return probabilities and labels that agree about as often as the probabilities say."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((images, classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in probs], dtype=np.int64)
    return probs, labels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("classes", "sharpness"), [(2, 1.0), (10, 1.5), (10, 6.0), (100, 3.0)])
def test_calibration_error_against_torchmetrics(seed: int, classes: int, sharpness: float) -> None:
    probs, labels = outcome(seed, classes=classes, sharpness=sharpness)
    wanted = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(labels), num_classes=classes, n_bins=15, norm="l1"
    )
    assert ece(probs, labels, probs.argmax(1)) == pytest.approx(float(wanted), abs=1e-6)
    assert float(wanted) > 0.001


def test_calibration_error_of_an_overconfident_model() -> None:
    probs, labels = outcome(0)
    sharp = probs**4 / (probs**4).sum(1, keepdims=True)
    wanted = multiclass_calibration_error(
        torch.from_numpy(sharp), torch.from_numpy(labels), num_classes=10, n_bins=15, norm="l1"
    )
    assert ece(sharp, labels, sharp.argmax(1)) == pytest.approx(float(wanted), abs=1e-6)
    assert float(wanted) > 0.1


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_against_a_loop(bins: int) -> None:
    probs, labels = outcome(3, images=200)
    top = probs.argmax(1)
    total = 0.0
    for b in range(bins):
        inside = [n for n in range(200) if b / bins < probs[n, top[n]] <= (b + 1) / bins]
        if inside:
            confidence = sum(probs[n, top[n]] for n in inside) / len(inside)
            accuracy = sum(top[n] == labels[n] for n in inside) / len(inside)
            total += len(inside) / 200 * abs(accuracy - confidence)
    assert ece(probs, labels, top, bins) == pytest.approx(total, abs=1e-12)


def test_calibration_error_by_hand() -> None:
    # Confidences 0.62 and 0.65 share the bin (0.6, 0.667], where one of two is right: gap |0.5 - 0.635| for 2 of 3.
    # 0.9 is alone and right: gap 0.1 for 1 of 3.
    probs = np.array([[0.62, 0.38], [0.35, 0.65], [0.9, 0.1]])
    labels, top = np.array([0, 0, 0]), np.array([0, 1, 0])
    assert ece(probs, labels, top) == pytest.approx((2 * 0.135 + 0.1) / 3, abs=1e-12)


def test_bins_are_closed_on_the_right() -> None:
    # 0.6 ends the bin (0.533, 0.6], in which 0.59 lies and 0.61 does not. (Guo et al., section 2)
    labels = np.array([0, 1])
    together = np.array([[0.6, 0.4], [0.59, 0.41]])
    assert ece(together, labels, together.argmax(1)) == pytest.approx(abs(0.4 - 0.59) / 2, abs=1e-12)
    apart = np.array([[0.6, 0.4], [0.61, 0.39]])
    assert ece(apart, labels, apart.argmax(1)) == pytest.approx((0.4 + 0.61) / 2, abs=1e-12)


def test_calibration_error_of_certainty() -> None:
    probs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    top = probs.argmax(1)
    assert ece(probs, top.astype(np.int64), top) == 0
    assert ece(probs, (1 - top).astype(np.int64), top) == 1
    assert ece(probs, np.array([0, 0, 0, 0]), top) == pytest.approx(0.5)


def test_calibration_error_is_of_the_class_predicted_even_if_it_is_not_the_first_of_the_largest() -> None:
    probs = np.array([[0.5, 0.5, 0.0]])
    assert ece(probs, np.array([1]), np.array([1])) == pytest.approx(0.5)
    probs = np.array([[0.4, 0.3, 0.3]])  # such a top class never comes out of a merge, but tells the columns apart
    assert ece(probs, np.array([2]), np.array([2])) == pytest.approx(0.7)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_nll_against_torch(classes: int) -> None:
    probs, labels = outcome(4, classes=classes)
    wanted = torch.nn.functional.nll_loss(torch.from_numpy(probs).log(), torch.from_numpy(labels))
    assert nll(probs, labels) == pytest.approx(float(wanted), abs=1e-9)


def test_nll_of_an_impossible_label_is_that_of_a_trillionth() -> None:
    assert nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(12 * math.log(10))
    assert nll(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 0])) == pytest.approx(6 * math.log(10))


def test_nll_of_half_precision_is_taken_in_double() -> None:
    probs = np.full((4096, 4), 0.25, np.float16)
    assert nll(probs, np.zeros(4096, np.int64)) == pytest.approx(math.log(4), abs=1e-12)


def test_brier_against_a_loop() -> None:
    probs, labels = outcome(5, images=100)
    total = 0.0
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        for c, p in enumerate(row):
            total += (p - (c == label)) ** 2
    assert brier(probs, labels) == pytest.approx(total / 100, abs=1e-12)


@pytest.mark.parametrize(
    ("row", "label", "score"),
    [([1.0, 0.0, 0.0], 0, 0.0), ([1.0, 0.0, 0.0], 1, 2.0), ([0.5, 0.5, 0.0], 0, 0.5), ([0.1] * 10, 3, 0.9)],
)
def test_brier_by_hand(row: list[float], label: int, score: float) -> None:
    assert brier(np.array([row]), np.array([label])) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(right: int, images: int, low: float, high: float) -> None:
    assert wilson_interval(right, images) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("right", "images"), [(8, 10), (5, 10), (9_500, 10_000), (1, 3), (9_999, 10_000)])
def test_wilson_ends_are_where_the_score_test_rejects(right: int, images: int) -> None:
    for end in wilson_interval(right, images):
        z = (right / images - end) / math.sqrt(end * (1 - end) / images)
        assert abs(z) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("images", [1, 2, 7, 60, 10_000])
def test_wilson_at_the_extremes(images: int) -> None:
    z2 = 1.959963984540054**2
    low, high = wilson_interval(0, images)
    assert low == pytest.approx(0, abs=1e-15)
    assert high == pytest.approx(z2 / (images + z2))  # the closed form at 0 of n
    mirrored = wilson_interval(images, images)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-12)
    assert 0 <= low < high <= 1
    assert 0 <= mirrored[0] < mirrored[1] <= 1


def test_accuracy_of_the_top_class_against_torchmetrics() -> None:
    from ensemble.merge import Vote, merge

    probs, labels = outcome(6)
    _, top = merge([Vote(np.log(probs)[None], [1.0])], "probs")
    wanted = multiclass_accuracy(torch.from_numpy(probs), torch.from_numpy(labels), num_classes=10, average="micro")
    assert (top == labels).mean() == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_accuracy_nll_and_brier_against_scikit_learn(classes: int) -> None:
    probs, labels = outcome(7, classes=classes)
    every = range(classes)
    assert accuracy(probs.argmax(1), labels) == oracle.accuracy_score(labels, probs.argmax(1))
    assert nll(probs, labels) == pytest.approx(oracle.log_loss(labels, probs, labels=every), abs=1e-12)
    wanted = oracle.brier_score_loss(labels, probs, labels=every, scale_by_half=False)
    assert brier(probs, labels) == pytest.approx(wanted, abs=1e-12)


def test_each_image_has_its_part() -> None:
    probs = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(nll_each(probs, np.array([0, 0])), [math.log(2), 0], atol=1e-12)
    np.testing.assert_allclose(brier_each(probs, np.array([0, 1])), [0.5, 2], atol=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_confusion_and_class_scores_against_scikit_learn_and_torchmetrics(classes: int) -> None:
    probs, labels = outcome(8, classes=classes)
    top = probs.argmax(1)
    matrix = confusion(top, labels, classes)
    assert matrix.tolist() == oracle.confusion_matrix(labels, top, labels=range(classes)).tolist()
    given_torch = (torch.from_numpy(probs), torch.from_numpy(labels))
    assert matrix.tolist() == multiclass_confusion_matrix(*given_torch, num_classes=classes).tolist()
    scores = class_scores(matrix)
    wanted = oracle.precision_recall_fscore_support(labels, top, labels=range(classes), zero_division=0)
    for own, other in zip((scores.precision, scores.recall, scores.f1, scores.support), wanted, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-12)
    f1 = multiclass_f1_score(*given_torch, num_classes=classes, average="none")
    np.testing.assert_allclose(scores.f1, f1, atol=1e-6)


def test_a_class_that_does_not_occur_scores_zero() -> None:
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 4)
    assert matrix.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = class_scores(matrix)
    assert scores.precision.tolist() == [0.5, 1, 0, 0]
    assert scores.recall.tolist() == [1, 0.5, 0, 0]
    assert scores.f1.tolist() == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert scores.support.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(("images", "bins"), [(150, 15), (500, 15), (100, 1), (7, 15), (20, 3)])
def test_adaptive_calibration_error_against_equal_parts(images: int, bins: int) -> None:
    probs, labels = outcome(9, images=images)
    top = probs.argmax(1)
    confidence = confidences(probs, top)
    order = sorted(range(images), key=lambda n: confidence[n])
    total = 0.0
    for b in range(bins):
        inside = [n for rank, n in enumerate(order) if b <= rank * bins / images < b + 1]
        assert abs(len(inside) - images / bins) < 1
        if inside:
            gap = sum(top[n] == labels[n] for n in inside) / len(inside) - confidence[inside].mean()
            total += len(inside) / images * abs(gap)
    assert adaptive_ece(probs, labels, top, bins) == pytest.approx(total, abs=1e-12)


def test_adaptive_calibration_error_by_hand() -> None:
    # Two bins of two: (0.6, 0.7) of which one is right, gap |0.5 - 0.65|, and (0.8, 0.9), both right, gap 0.15.
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    assert adaptive_ece(probs, np.array([0, 0, 0, 0]), probs.argmax(1), 2) == pytest.approx(0.15)


def test_images_of_equal_confidence_share_an_adaptive_bin() -> None:
    # Four at 0.6, half of them right: were they cut in two by right and wrong, the gaps would be 0.4 and 0.6.
    probs = np.full((4, 2), [0.6, 0.4])
    for labels in ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]):
        assert adaptive_ece(probs, np.array(labels), probs.argmax(1), 2) == pytest.approx(0.1)


def test_area_under_the_risk_coverage_curve_by_hand() -> None:
    # By confidence: right, wrong, right, wrong. Error rates among the first 1, 2, 3, 4: 0, 1/2, 1/3, 1/2.
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([1, 0, 1, 0])
    assert aurc(probs, labels, probs.argmax(1)) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    coverage, risk = selective_risk(confidences(probs, probs.argmax(1)), probs.argmax(1) != labels)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


def test_area_at_the_extremes() -> None:
    probs, _ = outcome(10)
    top = probs.argmax(1)
    assert aurc(probs, top.astype(np.int64), top) == 0
    assert aurc(probs, (top.astype(np.int64) + 1) % 10, top) == 1
    flat = np.full((4, 2), 0.5)  # no confidence tells images apart: one step, with the error rate
    assert aurc(flat, np.array([0, 1, 1, 1]), flat.argmax(1)) == 0.75


def test_doubting_the_mistakes_is_better_than_being_sure_of_them() -> None:
    wrong = np.array([True] * 2 + [False] * 8)
    doubted, sure = np.linspace(0.1, 1, 10), np.linspace(1, 0.1, 10)
    assert selective_risk(doubted, wrong)[1].mean() == pytest.approx((1 / 9 + 2 / 10) / 10)
    risks = [1, 1, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7, 2 / 8, 2 / 9, 2 / 10]
    assert selective_risk(sure, wrong)[1].mean() == pytest.approx(sum(risks) / 10)


@pytest.mark.parametrize("digits", [16, 2, 1])
def test_area_against_scikit_learns_precision_at_every_threshold(digits: int) -> None:
    # The precision of "it is right" above a threshold is 1 - risk; rounding makes ties.
    probs, labels = outcome(11)
    top = probs.argmax(1)
    confidence = confidences(probs, top).round(digits)
    precision, _, thresholds = oracle.precision_recall_curve(top == labels, confidence)
    share = [(confidence == t).mean() for t in thresholds]
    wanted = 1 - float(np.dot(share, precision[:-1]))
    _, risk = selective_risk(confidence, top != labels)
    assert risk.mean() == pytest.approx(wanted, abs=1e-12)
    assert 0.01 < wanted < 0.9


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=12), st.randoms())
@settings(max_examples=60)
def test_area_is_the_mean_of_risks_in_any_order(images: list[tuple[float, bool]], rng: random.Random) -> None:
    risks = []
    for threshold, _ in images:
        taken = [wrong for confidence, wrong in images if confidence >= threshold]
        risks.append(sum(taken) / len(taken))
    rng.shuffle(images)
    _, risk = selective_risk(np.array([c for c, _ in images]), np.array([w for _, w in images]))
    assert risk.mean() == pytest.approx(sum(risks) / len(risks), abs=1e-12)
