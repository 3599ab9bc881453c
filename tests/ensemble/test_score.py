"""The score of ballots: each member, the ensemble, and the report, against formulas and torchmetrics."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from ensemble.evaluate import Ballots, SplitSource, score
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import Vote
from tests.ensemble.conftest import REPORT_KEYS

Array = npt.NDArray[np.float64]
SOURCE = SplitSource("cifar10", "test", Path("nowhere"))


def softmax(logits: npt.NDArray[Any]) -> Array:
    powers: Array = np.exp(logits.astype(np.float64))
    powers /= powers.sum(-1, keepdims=True)
    return powers


def voters(count: int, seed: int = 0) -> tuple[Committee, Ballots]:
    """Return members that know something, with weights 1, 2, ... and two views each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 300)
    hint = 2 * np.eye(10)[labels]
    votes, members = [], []
    for m in range(count):
        votes.append(Vote((hint + rng.standard_normal((2, 300, 10))).astype(np.float16), [0.5, 0.5], m + 1.0))
        members.append(Member(f"m{m}.npz", Path(f"m{m}.npz"), m + 1.0))
    return Committee(tuple(members), "flip"), Ballots(votes, labels)


@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_the_score_of_each_member(merge: Any) -> None:  # noqa: ANN401
    committee, ballots = voters(3)
    report = score(replace(committee, merge=merge), ballots, SOURCE, source="stored")
    labels = torch.from_numpy(ballots.labels)
    for row, vote, member in zip(report.members, ballots.votes, committee.members, strict=True):
        views = softmax(vote.logits)
        # Under `vote` a member is measured on its mean probabilities: a single vote is no distribution.
        probs = np.sqrt(views[0] * views[1]) if merge == "logits" else views.mean(0)
        probs /= probs.sum(1, keepdims=True)
        preds = torch.from_numpy(probs)
        assert row["name"] == member.name
        assert row["weight"] == member.weight
        assert row["accuracy"] == pytest.approx(
            float(multiclass_accuracy(preds, labels, num_classes=10, average="micro")), abs=1e-6
        )
        assert row["nll"] == pytest.approx(float(torch.nn.functional.nll_loss(preds.log(), labels)), abs=1e-9)
        assert row["ece"] == pytest.approx(
            float(multiclass_calibration_error(preds, labels, num_classes=10, n_bins=15, norm="l1")), abs=1e-6
        )


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_the_score_of_the_ensemble(merge: Any, temperature: float) -> None:  # noqa: ANN401
    committee, ballots = voters(3)
    report = score(replace(committee, merge=merge, temperature=temperature), ballots, SOURCE, source="stored")
    weights, labels = np.array([1, 2, 3]) / 6, ballots.labels
    views = np.stack([softmax(vote.logits) for vote in ballots.votes])  # members, views, N, C
    if merge == "vote":
        probs = np.tensordot(weights, np.eye(10)[views.mean(1).argmax(-1)], 1)
        mean = np.tensordot(weights, views.mean(1), 1)
        top = (probs + 1e-6 * mean).argmax(1)
    else:
        logs = np.log(views).mean(1) if merge == "logits" else views.mean(1)
        merged = np.tensordot(weights, logs, 1)
        probs = softmax((merged if merge == "logits" else np.log(merged)) / temperature)
        top = probs.argmax(1)
    right = top == labels
    gap = 0.0
    confidence = probs[np.arange(300), top]
    for b in range(15):
        inside = (confidence > b / 15 + 1e-9) & (confidence <= (b + 1) / 15 + 1e-9)
        gap += abs(float((right[inside] - confidence[inside]).sum())) / 300
    got = report.ensemble
    assert got["accuracy"] == pytest.approx(right.mean())
    assert got["brier"] == pytest.approx(((probs - np.eye(10)[labels]) ** 2).sum(1).mean())
    assert got["ece"] == pytest.approx(gap, abs=1e-9)
    if merge == "vote":
        assert got["nll"] is None
    else:
        assert got["nll"] == pytest.approx(-np.log(probs[np.arange(300), labels]).mean())
    low, high = got["accuracy_ci95"]
    for end in (low, high):
        assert abs(right.mean() - end) / math.sqrt(end * (1 - end) / 300) == pytest.approx(1.959964, abs=1e-5)


def test_an_ensemble_is_better_than_its_members_here() -> None:
    committee, ballots = voters(5)
    report = score(committee, ballots, SOURCE, source="stored")
    assert report.ensemble["accuracy"] > max(row["accuracy"] for row in report.members)


def test_a_report_has_the_keys_and_types_of_the_design() -> None:
    committee, ballots = voters(2)
    report = score(committee, ballots, SOURCE, source="fresh", device="cpu", precision="fp32", seconds=2.0).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert list(report) == REPORT_KEYS
    assert [set(row) for row in report["members"]] == 2 * [{"name", "weight", "accuracy", "nll", "ece"}]
    assert set(report["ensemble"]) == {"accuracy", "accuracy_ci95", "nll", "brier", "ece"}
    assert (report["dataset"], report["split"], report["images"]) == ("cifar10", "test", 300)
    assert (report["views"], report["merge"], report["source"]) == (["none", "flip"], "probs", "fresh")
    assert (report["device"], report["precision"]) == ("cpu", "fp32")
    assert 2.0 <= report["seconds"] < 60
    low, high = report["ensemble"]["accuracy_ci95"]
    assert 0 <= low < report["ensemble"]["accuracy"] < high <= 1
