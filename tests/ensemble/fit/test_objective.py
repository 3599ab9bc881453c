"""What selections minimise, held to the metrics that evaluate committees."""

import numpy as np
import pytest

from ensemble.fit.objective import features, keys
from ensemble.fit.pool import Pool
from ensemble.merge import Vote, merge
from ensemble.metrics import nll


@pytest.mark.parametrize("views", ["none", "flip"])
@pytest.mark.parametrize("members", [[0], [1, 4], [2, 3, 3, 6]])
def test_keys_are_log_loss_and_wrong_answers(pool: Pool, views: str, members: list[int]) -> None:
    temperatures = np.linspace(0.5, 2, 7)
    shown = slice(1) if views == "none" else slice(2)
    votes = [
        Vote(pool.logits[m, shown].transpose(0, 2, 1), [1.0] * (shown.stop or 0), 1.0, float(temperatures[m]))
        for m in members
    ]
    probs, top = merge(votes, "probs")
    loss, wrong = nll(probs, pool.labels), int((top != pool.labels).sum())
    by_loss = features(pool, views, temperatures, "nll")
    by_accuracy = features(pool, views, temperatures, "accuracy")
    assert (by_loss.shape, by_accuracy.shape) == ((7, 1, 300), (7, 10, 300))
    np.testing.assert_allclose(by_accuracy[:, :1], by_loss)
    assert keys(by_loss[members].sum(0)[None], len(members)) == pytest.approx(loss, abs=1e-6)
    assert keys(by_accuracy[members].sum(0)[None], len(members)) == pytest.approx(wrong + loss / (1 + loss), abs=1e-6)


def test_fewer_wrong_answers_count_before_any_log_loss() -> None:
    # Rows: the label's probability and its lead over the one other class, on two images.
    right_but_unsure = np.array([[0.5001, 0.5001], [0.0002, 0.0002]])
    wrong_once_but_sure = np.array([[0.9999, 0.4999], [0.9998, -0.0002]])
    first, second = keys(np.stack((right_but_unsure, wrong_once_but_sure)).astype(np.float32), 1)
    assert first < 1 < second < 2


def test_sizes_may_be_small_integers_of_any_type() -> None:
    sums = np.full((2, 1, 5), 1.0, np.float32)
    np.testing.assert_allclose(keys(sums, np.array([3, 7], np.uint8)), np.log([3, 7]), rtol=1e-12)


def test_impossible_labels_give_a_finite_loss() -> None:
    logits = np.zeros((1, 1, 2, 4), np.float16)
    logits[:, :, 0] = 6e4
    of = features(Pool(("a",), ("none",), logits, np.ones(4, np.int64)), "none", np.ones(1), "nll")
    assert keys(of, 1) == pytest.approx(-np.log(1e-12), rel=1e-5)
