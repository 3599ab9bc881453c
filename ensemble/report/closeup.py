"""How one set of answers errs: calibration, confusion, classes, and the most confident mistakes as pictures."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.comparison import Answers
from ensemble.metrics import (
    adaptive_ece,
    aurc,
    calibration_gaps,
    class_scores,
    confidences,
    confusion,
    measures,
)
from ensemble.report.record import ClassRow, Closeup, MemberDiversity, Mistake, ReliabilityBin, Scores
from zoo.data import Split
from zoo.data.split import Labels

__all__ = ["BINS", "closeup", "picture", "reliability", "scores"]

BINS = 15
"""Of the reliability diagram; as in `ensemble.metrics.ece`."""

_LARGEST = 96  # pixels: larger pictures are made smaller, so that a page stays small


def scores(answers: Answers, labels: Labels) -> Scores:
    """Return the scores of what was answered to N images with labels `[N]`."""
    found = measures(answers.probs, answers.top, labels, likelihood=answers.likelihood)
    low, high = found.pop("accuracy_ci95")
    return Scores(
        **found,
        accuracy_ci95=(low, high),
        adaptive_ece=adaptive_ece(answers.probs, labels, answers.top),
        aurc=aurc(answers.probs, labels, answers.top),
    )


def reliability(answers: Answers, labels: Labels) -> tuple[ReliabilityBin, ...]:
    """Return accuracy and mean confidence in `BINS` equal bins of confidence, those of `ensemble.metrics.ece`."""
    confidence, right = confidences(answers.probs, answers.top), answers.top == labels
    which, _ = calibration_gaps(answers.probs, labels, answers.top, BINS)
    bins = []
    for b in range(BINS):
        inside = which == b
        n = int(inside.sum())
        sure, hit = (float(confidence[inside].mean()), float(right[inside].mean())) if n else (None, None)
        bins.append(ReliabilityBin(b / BINS, (b + 1) / BINS, n, sure, hit))
    return tuple(bins)


def closeup(
    answers: Answers,
    labels: Labels,
    classes: Sequence[str],
    *,
    point: int,
    why: str,
    split: Split | None,
    mistakes: int = 24,
    diversity: MemberDiversity | None = None,
) -> Closeup:
    """Look at one point's answers.

    Args:
        answers: to N images, rows in the order of `Split.order`.
        labels: `[N]`, likewise.
        classes: names.
        point: its number in the record.
        why: it is this one.
        split: the images; None if they are not at hand.
        mistakes: how many are shown.
        diversity: of the point's members, if it is known.
    """
    matrix = confusion(answers.top, labels, len(classes))
    wrong = np.flatnonzero(answers.top != labels)
    sure = confidences(answers.probs, answers.top)
    ranked = wrong[np.argsort(-sure[wrong], kind="stable")][:mistakes]
    shown = [
        Mistake(
            image=None if split is None else int(split.order[row]),
            label=classes[labels[row]],
            prediction=classes[answers.top[row]],
            confidence=float(sure[row]),
            label_probability=float(answers.probs[row, labels[row]]),
            picture=None if split is None else picture(split.images[split.order[row]]),
        )
        for row in ranked.tolist()
    ]
    return Closeup(
        point=point,
        why=why,
        reliability=reliability(answers, labels),
        confusion=tuple(map(tuple, matrix.tolist())),
        classes=_class_rows(matrix, classes),
        mistakes=tuple(shown),
        wrong=len(wrong),
        diversity=diversity,
    )


def _class_rows(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassRow, ...]:
    of = class_scores(matrix)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    rows = []
    for c, name in enumerate(classes):
        most = int(wrong[c].argmax())
        count = int(wrong[c, most])
        rows.append(
            ClassRow(
                name=name,
                images=int(of.support[c]),
                precision=float(of.precision[c]),
                recall=float(of.recall[c]),
                f1=float(of.f1[c]),
                taken_for=classes[most] if count else None,
                taken_for_images=count,
            )
        )
    return tuple(rows)


def picture(pixels: npt.NDArray[np.uint8]) -> str:
    """Return an image `[H, W, 3]` as the data URI of a PNG; a side has at most 96 pixels."""
    from PIL import Image  # noqa: PLC0415  # records without pictures need none

    image = Image.fromarray(pixels)
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
