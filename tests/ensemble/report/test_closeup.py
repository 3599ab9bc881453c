"""What a close look at answers finds, held to plain loops and scikit-learn."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

from ensemble.report.closeup import BINS, closeup, picture, reliability, scores
from tests.conftest import CLASSES, random_split
from tests.ensemble.report.conftest import answers

SPLIT = random_split(300)
LABELS = SPLIT.labels[SPLIT.order]
SAID = answers(LABELS, 10, 2.0, seed=3)


def test_scores_are_those_of_another_library() -> None:
    found = scores(SAID, LABELS)
    assert found.accuracy == pytest.approx(accuracy_score(LABELS, SAID.top))
    assert found.nll == pytest.approx(log_loss(LABELS, SAID.probs, labels=range(10)))
    assert found.accuracy_ci95[0] < found.accuracy < found.accuracy_ci95[1]


def test_adaptive_calibration_and_risk_are_those_of_plain_loops() -> None:
    found = scores(SAID, LABELS)
    sure = sorted((float(p.max()), bool(t == y)) for p, t, y in zip(SAID.probs, SAID.top, LABELS, strict=True))
    bins = [sure[20 * b : 20 * (b + 1)] for b in range(15)]  # 300 images, and no two of the same confidence
    gaps = [abs(np.mean([right for _, right in some]) - np.mean([p for p, _ in some])) for some in bins]
    assert found.adaptive_ece == pytest.approx(np.mean(gaps))
    wrong = [not right for _, right in reversed(sure)]
    assert found.aurc == pytest.approx(np.mean([np.mean(wrong[:n]) for n in range(1, 301)]))


def test_bins_hold_every_image_once_and_make_the_calibration_error() -> None:
    bins = reliability(SAID, LABELS)
    assert len(bins) == BINS
    assert sum(b.images for b in bins) == len(LABELS)
    gaps = [b.images * abs((b.accuracy or 0) - (b.confidence or 0)) for b in bins]
    assert sum(gaps) / len(LABELS) == pytest.approx(scores(SAID, LABELS).ece)
    for b in bins:
        inside = [i for i, p in enumerate(SAID.probs.max(1)) if b.low < p <= b.high]
        assert b.images == len(inside)
        assert (b.accuracy is None) == (not inside)
        if inside:
            assert b.accuracy == pytest.approx(np.mean([SAID.top[i] == LABELS[i] for i in inside]))


def test_classes_and_confusion_are_those_of_another_library() -> None:
    found = closeup(SAID, LABELS, CLASSES, point=0, why="", split=SPLIT)
    precision, recall, f1, support = precision_recall_fscore_support(LABELS, SAID.top)
    assert [c.precision for c in found.classes] == pytest.approx(list(precision))
    assert [c.recall for c in found.classes] == pytest.approx(list(recall))
    assert [c.f1 for c in found.classes] == pytest.approx(list(f1))
    assert [c.images for c in found.classes] == list(support)
    for row, counts in zip(found.classes, found.confusion, strict=True):
        others = {name: n for name, n in zip(CLASSES, counts, strict=True) if name != row.name}
        assert row.taken_for_images == max(others.values())
        assert row.taken_for is not None
        assert others[row.taken_for] == row.taken_for_images


def test_mistakes_are_the_most_confident_ones_with_their_own_pictures() -> None:
    found = closeup(SAID, LABELS, CLASSES, point=0, why="", split=SPLIT, mistakes=5)
    wrong = sorted(float(p.max()) for p, t, y in zip(SAID.probs, SAID.top, LABELS, strict=True) if t != y)
    assert [m.confidence for m in found.mistakes] == pytest.approx(wrong[::-1][:5])
    assert found.wrong == len(wrong)
    for m in found.mistakes:
        assert m.image is not None
        assert m.picture is not None
        assert CLASSES[SPLIT.labels[m.image]] == m.label != m.prediction
        content = base64.b64decode(m.picture.removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(content))), SPLIT.images[m.image])


def test_without_images_there_are_mistakes_without_pictures() -> None:
    found = closeup(SAID, LABELS, CLASSES, point=0, why="", split=None)
    assert found.mistakes
    assert {(m.image, m.picture) for m in found.mistakes} == {(None, None)}


def test_large_pictures_become_small_and_keep_their_shape() -> None:
    uri = picture(np.zeros((400, 200, 3), np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert image.size == (48, 96)


def test_a_class_that_is_always_right_is_taken_for_nothing() -> None:
    labels = np.array([0, 1, 1])
    said = answers(labels, 2, 50.0, seed=0)
    found = closeup(said, labels, ("a", "b"), point=0, why="", split=None)
    assert [c.taken_for for c in found.classes] == [None, None]
    assert found.mistakes == ()
