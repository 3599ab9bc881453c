"""Records of a tiny zoo, held to what `ensemble eval` says of the same committees."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.evaluate import SplitSource, score, stored_ballots
from ensemble.members import parse_members
from ensemble.report.agreement import how_diverse
from ensemble.report.candidates import best_of_pool
from ensemble.report.gather import Plan, gather
from ensemble.report.record import Budget
from zoo.errors import DataError, NotFoundError
from zoo.predictions import Predictions, SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


def test_without_running_anything_scores_are_those_of_an_evaluation(knowing: "Zoo") -> None:
    members = parse_members("tiny-*")
    source, validation = knowing.split_source(), knowing.split_source("val")
    files = {"e.json": knowing.committee("tiny-a,tiny-b=2", "flip", "logits", 1.3)}
    record = gather(Plan(members, files, budget=Budget(3e-3, "G multiply-adds")), source, validation)
    assert (record.dataset, record.split, record.images) == ("cifar10", "test", 60)
    assert record.fingerprint == knowing.split.fingerprint
    assert {"member", "student", "ensemble"} <= {p.kind for p in record.points}
    assert {p.teacher for p in record.points if p.kind == "student"} == {"tiny-a"}
    for point in record.points:
        if point.kind != "committee":
            who = files["e.json"] if point.kind == "ensemble" else knowing.committee(point.name, point.views)
            own = score(who, stored_ballots(who, source), source, source="stored").ensemble
            there = score(who, stored_ballots(who, validation), validation, source="stored").ensemble
            assert point.scores.accuracy == own["accuracy"]
            assert list(point.scores.accuracy_ci95) == own["accuracy_ci95"]
            assert (point.scores.nll, point.scores.ece) == pytest.approx((own["nll"], own["ece"]))
            assert (point.val_accuracy, point.val_nll) == pytest.approx((there["accuracy"], there["nll"]))
    assert record.chosen is not None
    assert (record.points[record.chosen].multiply_adds or 1) <= 3e-3
    assert record.closeup.point == record.chosen
    assert all(m.picture for m in record.closeup.mistakes)
    assert record.agreement is not None
    assert {*record.agreement.names} == {"tiny-a", "tiny-b", "tiny-c"}
    assert [p.multiply_adds for p in record.points] == sorted(p.multiply_adds or 0 for p in record.points)


def test_what_may_have_seen_the_validation_split_is_shown_and_never_chosen(zoo: "Zoo") -> None:
    plan = Plan(parse_members("tiny-a,tiny-b"), budget=Budget(1.0, "G multiply-adds"))
    record = gather(plan, zoo.split_source(), zoo.split_source("val"))
    assert {p.val_accuracy for p in record.points} == {None}
    assert record.chosen is None
    assert record.missed == "no point is within the budget of 1 G multiply-adds"


def test_members_for_other_images_are_refused(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    entry = zoo.entry("tiny-b")
    stored = dict(entry.predictions().splits)
    stored["test"] = SplitPredictions(stored["test"].views, stored["test"].labels, "0" * 64)
    (entry.folder / "predictions.safetensors").write_bytes(Predictions(stored).encode())
    reseal(entry.folder)
    source = zoo.split_source()
    source.folder = None
    with pytest.raises(DataError, match="different test images"):
        gather(Plan(parse_members("tiny-a,tiny-b")), source, zoo.split_source("val"))


def test_predictions_without_a_network_are_a_point_without_a_cost(zoo: "Zoo", tmp_path: Path) -> None:
    file = tmp_path / "other.npz"
    np.savez(file, logits=zoo.logits("tiny-a"), labels=zoo.split.labels)
    record = gather(Plan(parse_members(f"tiny-a,{file}")), zoo.split_source(), zoo.split_source("val"))
    point = next(p for p in record.points if p.runtime == "predictions only")
    twin = next(p for p in record.points if p.name == "tiny-a" and p.views == "none")
    assert point.scores.accuracy == twin.scores.accuracy
    assert (point.latency, point.multiply_adds, point.front) == (None, None, False)


def test_a_committee_of_the_pool_that_is_a_file_is_shown_once() -> None:
    members, splits = parse_members("fastnet-seed[1-2]"), [SplitSource("cifar10", name) for name in ("test", "val")]
    (both,), _ = best_of_pool(members, ("none",), 2)
    turned = replace(both.committee, members=both.committee.members[::-1])
    for files, names in (({}, ["best 2 of 2"]), ({"mine.json": turned}, ["mine.json"])):
        record = gather(Plan(members, files, sets=("none",)), *splits)
        assert [p.name for p in record.points if len(p.members) == 2] == names


def test_diversity_is_of_the_ensemble_in_focus(knowing: "Zoo") -> None:
    members = parse_members("tiny-*")
    source, validation = knowing.split_source(), knowing.split_source("val")
    files = {"e.json": knowing.committee("tiny-a,tiny-b=2", "flip", temperature=1.3)}
    found = gather(Plan(members, files), source, validation).closeup.diversity
    assert found == how_diverse(files["e.json"], stored_ballots(files["e.json"], source))
    assert found is not None
    assert found.names == ("tiny-a", "tiny-b")
    assert gather(Plan(members[:1]), source, validation).closeup.diversity is None


@pytest.mark.usefixtures("knowing")
def test_views_that_members_lack_are_advised_on_once() -> None:
    members = parse_members("tiny-*")
    source, validation = SplitSource("cifar10", "test"), SplitSource("cifar10", "val")
    everyone = "--members tiny-a,tiny-b,tiny-c --tta crops5"
    with pytest.raises(NotFoundError, match=f"run `ensemble eval {everyone} --split test --fresh` once") as caught:
        gather(Plan(members, sets=("crops5",)), source, validation)
    assert str(caught.value).count("ensemble eval") == 1
    notes = gather(Plan(members, sets=("none", "crops5")), source, validation).notes
    advice = [note for note in notes if "ensemble eval" in note]
    assert len(advice) == 2, "one command for each split"
    assert f"{everyone} --split val --data DIR --fresh`" in advice[0]
    assert f"{everyone} --split test --fresh`" in advice[1]
