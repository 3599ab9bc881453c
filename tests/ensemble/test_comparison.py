"""Two ensembles compared: what is measured against the plain metrics, and when the sentence may claim something."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from ensemble.comparison import METRICS, Answers, Comparison, compare, verdict
from ensemble.metrics import aurc, brier, ece, nll, wilson_interval
from zoo.errors import UsageError

Labels = npt.NDArray[np.int64]


def answers(seed: int, labels: Labels, skill: float = 3.0) -> Answers:
    """Answers that share their noise, and so most of their mistakes, with all others to these labels."""
    shared = np.random.default_rng(99).standard_normal((len(labels), 5))
    logits = shared + 0.4 * np.random.default_rng(seed).standard_normal(shared.shape)
    logits[np.arange(len(labels)), labels] += skill
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Answers(probs, probs.argmax(1))


def only(a: int, b: int, images: int) -> Comparison:
    """Compare two that are sure of what they say: `a` images that A alone gets right, `b` that B does."""
    labels = np.zeros(images, np.int64)
    first, second = np.zeros(images, np.intp), np.zeros(images, np.intp)
    first[a : a + b], second[:a] = 1, 1
    eye = np.eye(2)
    return compare(Answers(eye[first], first), Answers(eye[second], second), labels, resamples=4000)


@pytest.fixture
def labels() -> Labels:
    return np.random.default_rng(0).integers(0, 5, 400)


def test_both_sides_and_the_difference_are_the_plain_metrics(labels: Labels) -> None:
    a, b = answers(1, labels), answers(2, labels, 3.3)
    found = compare(a, b, labels, resamples=500)
    wanted = []
    for side in (a, b):
        p, t = side.probs, side.top
        values = [float((t == labels).mean()), nll(p, labels), brier(p, labels), ece(p, labels, t), aurc(p, labels, t)]
        wanted.append(dict(zip(METRICS, values, strict=True)))
    assert tuple(found.a) == tuple(found.b) == tuple(found.difference) == METRICS
    for m in METRICS:
        own, other, gap = found.a[m], found.b[m], found.difference[m]
        assert own is not None
        assert other is not None
        assert gap is not None
        assert (own.value, other.value) == pytest.approx((wanted[0][m], wanted[1][m]), abs=1e-12)
        assert gap.value == pytest.approx(wanted[1][m] - wanted[0][m], abs=1e-12)
        for e in (own, other, gap):
            assert e.low < e.value < e.high
        assert gap.high - gap.low < own.high - own.low + other.high - other.low
    right = int((a.top == labels).sum())
    accuracy = found.a["accuracy"]
    assert accuracy is not None
    assert (accuracy.low, accuracy.high) == wilson_interval(right, 400)
    assert found.test.only_a == ((a.top == labels) & (b.top != labels)).sum()
    assert found.test.only_b == ((b.top == labels) & (a.top != labels)).sum()
    assert found.test.p == pytest.approx(
        stats.binomtest(found.test.only_a, found.test.only_a + found.test.only_b).pvalue, rel=1e-9
    )


def test_the_nll_differences_interval_is_scipys_paired_one(labels: Labels) -> None:
    a, b = answers(3, labels), answers(4, labels, 3.3)
    gap = compare(a, b, labels, resamples=20_000).difference["nll"]
    assert gap is not None
    rows = np.arange(400)
    each = np.log(a.probs[rows, labels]) - np.log(b.probs[rows, labels])
    peer = stats.bootstrap((each,), np.mean, n_resamples=20_000, rng=0).confidence_interval
    assert (gap.low, gap.high) == pytest.approx((peer.low, peer.high), abs=0.05 * (peer.high - peer.low))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p, _: (p, p), r"a is of type ndarray: give Answers\(probs, probs.argmax\(1\)\)"),
        (lambda p, t: (Answers(p, t), [1, 2]), "b is of type list"),
        (lambda p, t: (Answers(p, t), Answers(p[:9], t[:9])), r"b has probs \[9, 5\] and top \[9\] for 400 labels"),
        (lambda p, _: (Answers(p, p), Answers(p, p)), r"a has probs \[400, 5\] and top \[400, 5\] for 400 labels"),
        (lambda p, t: (Answers(p[:, :3], t), Answers(p, t)), "labels go from 0 to 4, but a has 3 classes"),
    ],
)
def test_what_are_no_answers_to_these_images_is_one_line(
    labels: Labels, make: Callable[..., tuple[Answers, Answers]], says: str
) -> None:
    side = answers(1, labels)
    with pytest.raises(UsageError, match=says):
        compare(*make(side.probs, side.top), labels)


def test_labels_are_numbers_of_classes(labels: Labels) -> None:
    side = answers(1, labels)
    with pytest.raises(UsageError, match=r"labels is float64 \[400\]: give numbers of classes"):
        compare(side, side, labels.astype(float))


def test_exchanging_the_two_mirrors_everything(labels: Labels) -> None:
    a, b = answers(5, labels), answers(6, labels)
    there, back = compare(a, b, labels, resamples=4000), compare(b, a, labels, resamples=4000)
    assert (there.a, there.test.p) == (back.b, back.test.p)
    for m in METRICS:
        one, other = there.difference[m], back.difference[m]
        assert one is not None
        assert other is not None
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=3e-3)


def test_a_vote_has_no_likelihood(labels: Labels) -> None:
    a, b = answers(7, labels), answers(8, labels)
    vote = replace(b, likelihood=False)
    found = compare(a, vote, labels, resamples=50)
    assert found.a["nll"] is not None
    assert found.b["nll"] is None
    assert found.difference["nll"] is None
    assert found.difference["brier"] is not None
    assert compare(vote, a, labels, resamples=50).a["nll"] is None
    assert found.to_dict()["b"]["nll"] is None


def test_the_same_ensemble_twice(labels: Labels) -> None:
    a = answers(9, labels)
    found = compare(a, a, labels, resamples=200)
    assert not found.real
    for gap in found.difference.values():
        assert gap is not None
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)
    assert found.test.p == 1
    assert verdict(found) == "no difference in accuracy can be told: A and B are right on the same images; n = 400"


def test_a_seed_repeats(labels: Labels) -> None:
    a, b = answers(10, labels), answers(11, labels)
    runs = [compare(a, b, labels, resamples=100, seed=seed).to_dict() for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0]["difference"] != runs[2]["difference"]
    assert json.loads(json.dumps(runs[0])) == runs[0]


def test_the_sentence_claims_what_is_shown() -> None:
    found = only(10, 41, 1000)
    gain = found.gain
    assert found.real
    assert gain.low > 0
    assert verdict(found, "old", "new") == (
        f"new is better by 3.10 points of accuracy, 95 % interval {100 * gain.low:.2f} to {100 * gain.high:.2f} "
        "(paired bootstrap, 4,000 resamples, n = 1,000; McNemar p < 0.0001)"
    )
    # Normal approximation: 31 of 1000, standard deviation sqrt(51 - 31^2 / 1000) of 1000.
    assert (100 * gain.low, 100 * gain.high) == pytest.approx((3.1 - 1.96 * 0.708, 3.1 + 1.96 * 0.708), abs=0.15)


def test_the_sentence_names_the_better_one_whichever_it_is() -> None:
    gain = only(41, 10, 1000).gain
    assert gain.value == -0.031
    low, high = 100 * -gain.high, 100 * -gain.low
    assert verdict(only(41, 10, 1000)).startswith(
        f"A is better by 3.10 points of accuracy, 95 % interval {low:.2f} to {high:.2f} ("
    )


def test_the_sentence_says_when_nothing_can_be_told() -> None:
    found = only(20, 24, 1000)
    assert not found.real
    said = verdict(found)
    assert said.startswith("no difference in accuracy can be told: B is ahead by 0.40 points, 95 % interval -")
    assert said.endswith(f"n = 1,000; McNemar p = {stats.binomtest(20, 44).pvalue:.2g})")
    equal = verdict(only(20, 20, 1000))
    assert equal.startswith("no difference in accuracy can be told: A and B are right equally often, 95 % interval -")
    assert equal.endswith("McNemar p = 1)")
    ahead = verdict(only(2, 0, 50))
    assert "A is ahead by 4.00 points" in ahead
    assert "-0.00" not in ahead


def test_few_images_are_not_enough_however_even_their_answers() -> None:
    found = only(0, 5, 50)
    assert found.gain.low > 0  # the bootstrap alone would be convinced
    assert found.test.p == pytest.approx(2 / 32)
    assert not found.real
    assert verdict(found).startswith("no difference in accuracy can be told: B is ahead by 10.00 points")
    assert verdict(found).endswith("; the two tests do not agree")
    assert not verdict(only(2, 2, 50)).endswith("agree")
    assert not verdict(only(2, 1, 50)).endswith("agree")
    assert only(0, 6, 50).real
