"""Classification of images, against stored predictions and plain loops."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ensemble.members import Member
from ensemble.predict import classify
from zoo.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CPU = torch.device("cpu")


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers: npt.NDArray[np.float64] = np.exp(logits)
    powers /= powers.sum(-1, keepdims=True)
    return powers


def test_probabilities_are_those_of_the_stored_logits_image_by_image(zoo: "Zoo") -> None:
    answer = classify(zoo.committee("tiny-a,tiny-b=3", "flip"), zoo.split.images, device=CPU)
    each = [softmax(np.stack([zoo.logits(n, view) for view in ("none", "flip")])).mean(0) for n in ("tiny-a", "tiny-b")]
    wanted = (each[0] + 3 * each[1]) / 4
    assert answer.probs.shape == (60, 10)
    np.testing.assert_allclose(answer.probs, wanted, atol=1e-3)
    assert wanted.std(0).max() > 0.01  # rows out of line would show
    np.testing.assert_array_equal(answer.top, answer.probs.argmax(1))
    clear = [np.sort(probs)[:, -1] - np.sort(probs)[:, -2] > 2e-3 for probs in each]
    for m in range(2):
        assert clear[m].sum() > 30
        np.testing.assert_array_equal(answer.member_top[m][clear[m]], each[m].argmax(1)[clear[m]])


def test_no_image_influences_another(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a", "flip")
    together = classify(committee, zoo.split.images[:5], device=CPU).probs
    alone = [classify(committee, zoo.split.images[i : i + 1], device=CPU).probs[0] for i in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_one_answer_a_member_whatever_the_merge(zoo: "Zoo", merge: Any) -> None:  # noqa: ANN401
    answer = classify(zoo.committee("tiny-*", "none", merge), zoo.split.images[:9], device=CPU)
    assert answer.member_top.shape == (3, 9)
    np.testing.assert_allclose(answer.probs.sum(1), 1, rtol=1e-6)
    if merge == "vote":
        shares = np.eye(10)[answer.member_top].mean(0)
        np.testing.assert_allclose(answer.probs, shares)
        assert (answer.probs[np.arange(9), answer.top] == answer.probs.max(1)).all()


def test_temperatures_are_used(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a", "none")
    member = replace(committee.members[0], temperature=0.5)
    sharp = classify(replace(committee, members=(member,), temperature=0.25), zoo.split.images, device=CPU).probs
    np.testing.assert_allclose(sharp, softmax(zoo.logits("tiny-a") * 8), atol=5e-3)
    assert sharp.max() > classify(committee, zoo.split.images, device=CPU).probs.max()


def test_a_prediction_file_cannot_classify(zoo: "Zoo", tmp_path: Path) -> None:
    (tmp_path / "other.npz").touch()
    with pytest.raises(UsageError, match=r"other\.npz has predictions only"):
        classify(zoo.committee(str(tmp_path / "other.npz")), zoo.split.images, device=CPU)


def test_damaged_weights_are_caught_before_anything_is_loaded(
    zoo: "Zoo", tear: dict[str, Callable[[Path], object]], loads: list[str]
) -> None:
    tear["bit flipped in the middle"](zoo.source / "tiny-a" / "model.safetensors")
    member = Member("tiny-a", zoo.entry("tiny-a"))
    with pytest.raises(CorruptError, match="is damaged"):
        classify(replace(zoo.committee(), members=(member,)), zoo.split.images, device=CPU)
    assert loads == []


def test_no_images_get_no_answers(zoo: "Zoo") -> None:
    answer = classify(zoo.committee("tiny-a,tiny-b"), zoo.split.images[:0], device=CPU)
    assert (answer.probs.shape, answer.top.shape, answer.member_top.shape) == ((0, 10), (0,), (2, 0))
