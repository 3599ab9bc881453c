"""Which point a record looks at and why, and by which predictions points are chosen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ensemble.evaluate import SplitSource, score, stored_ballots
from ensemble.members import parse_members
from ensemble.report.bench import Bench
from ensemble.report.gather import Plan, gather
from ensemble.report.record import Budget, Record
from ensemble.report.tables import tables
from tests.ensemble.report.test_graphs import LOCKFILE, find_graphs, write_graph
from zoo.errors import DataError
from zoo.predictions import Predictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

OTHERS = {"dataset": "svhn", "classes": ["0", "1"]}


@pytest.fixture
def knowing(knowing: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with members of whom the last knows most of the validation split, the first of the test split."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
        stored = dict(knowing.entry(name).predictions().splits)
        for split, skill in (("val", 2 * number), ("test", 4 - 2 * number)):
            hint = skill * np.eye(10)[stored[split].labels]
            views = {v: (hint + rng.standard_normal(hint.shape)).astype(np.float16) for v in ("none", "flip")}
            stored[split] = replace(stored[split], views=views)
        (knowing.source / name / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(knowing.source / name)
    return knowing


def look(zoo: "Zoo", names: str, files: tuple[str, ...] = (), **plan: Any) -> Record:  # noqa: ANN401
    committees = {f"{name}.json": zoo.committee(name, "none") for name in files}
    made = Plan(parse_members(names), committees, sets=("none",), most=1, **plan)
    return gather(made, zoo.split_source(), zoo.split_source("val"))


def test_the_best_file_on_the_validation_split_is_in_focus_wherever_it_stands(knowing: "Zoo") -> None:
    for files in (("tiny-a", "tiny-c"), ("tiny-c", "tiny-a")):
        record = look(knowing, "tiny-*", files)
        assert record.points[record.closeup.point].name == "tiny-c.json"
        assert record.closeup.why == "the best of the ensemble files on the validation split"
    record = look(knowing, "tiny-*", ("tiny-b",))
    assert (record.points[record.closeup.point].name, record.closeup.why) == ("tiny-b.json", "the ensemble file")


def test_without_files_or_validation_accuracies_the_reported_split_chooses_nothing(
    knowing: "Zoo", tmp_path: Path
) -> None:
    record = look(knowing, "tiny-*")
    assert record.points[record.closeup.point].name == "tiny-c"
    assert record.closeup.why == "the best on the validation split"
    for name, skill in (("poor", 1), ("good", 9)):
        logits = knowing.logits("tiny-c") + skill * np.eye(10)[knowing.split.labels]
        np.savez(tmp_path / f"{name}.npz", logits=logits, labels=knowing.split.labels)
    poor, good = tmp_path / "poor.npz", tmp_path / "good.npz"
    record = look(knowing, f"{poor},{good}")
    assert record.points[record.closeup.point].name == str(poor)
    assert record.closeup.why == "the first that was given, as none has a validation accuracy"
    assert look(knowing, f"{good},tiny-a").closeup.why == "the best on the validation split"


def test_a_budget_that_nothing_meets_is_said(knowing: "Zoo") -> None:
    record = look(knowing, "tiny-*", budget=Budget(1e-9, "G multiply-adds"))
    assert record.missed == "no point is within the budget of 1e-09 G multiply-adds"
    assert record.chosen is None
    record = look(knowing, "tiny-*", budget=Budget(1.0, "G multiply-adds"))
    assert record.missed is None
    assert record.points[record.chosen or 0].name == "tiny-c"


def test_what_files_say_of_their_fits_is_judged_by_the_members(knowing: "Zoo") -> None:
    mark = knowing.entry("tiny-a").predictions().splits["val"].fingerprint
    proper = {"split": "val", "fingerprint": mark, "images": 10, "objective": "nll"}
    said = look(knowing, "tiny-*", ("tiny-a", "tiny-b"), fits={"tiny-a.json": proper}).fitted
    assert said.endswith("But tiny-b.json does not say what it was fitted on.")
    both = {"tiny-a.json": proper, "tiny-b.json": proper}
    assert "But" not in look(knowing, "tiny-*", ("tiny-a", "tiny-b"), fits=both).fitted


def test_members_that_held_other_images_out_are_not_chosen_between(
    knowing: "Zoo", reseal: Callable[[Path], None]
) -> None:
    entry, folder = knowing.entry("tiny-c"), knowing.source / "tiny-c"
    stored = dict(entry.predictions().splits)
    stored["val"] = replace(stored["val"], fingerprint="5" * 64)
    card = replace(entry.card, trained_on={"images": 90, "fingerprint": "1" * 64, "held_out": "5" * 64})
    (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
    (folder / "predictions.safetensors").write_bytes(Predictions(stored).encode())
    reseal(folder)
    source, validation = SplitSource("cifar10", "test", knowing.data), SplitSource("cifar10", "val")
    record = gather(Plan(parse_members("tiny-*"), sets=("none",), most=1), source, validation)
    known = {p.name: p.val_accuracy is not None for p in record.points}
    assert known == {"tiny-a": True, "tiny-b": True, "tiny-c": False}
    assert "in no committee of the pool: 'tiny-c' held out other images than 'tiny-a'" in record.notes


def bench_of(source: SplitSource) -> Bench:
    return Bench(torch.device("cpu"), source, (1, 2), sets=("none",), seconds=0.01)


def test_in_another_precision_the_validation_accuracy_is_marked_as_that_of_fp32(knowing: "Zoo") -> None:
    source = knowing.split_source()
    plan = Plan(parse_members("tiny-a"), sets=("none",), precisions=("bf16",), budget=Budget(1e9, "ms"))
    record = gather(plan, source, knowing.split_source("val"), bench=bench_of(source))
    (point,) = record.points
    committee, validation = knowing.committee("tiny-a", "none"), knowing.split_source("val")
    there = score(committee, stored_ballots(committee, validation), validation, source="stored").ensemble
    assert (point.val_accuracy, point.val_precision, point.precision) == (there["accuracy"], "fp32", "bf16")
    assert record.closeup.why == "chosen for the budget of 1e+09 ms in the median, by its validation accuracy in fp32"
    table = tables(record)["points"]
    assert table.rows[0][table.columns.index("validation precision")] == "fp32"


def test_graphs_for_other_data_are_left_out_before_anything_of_them_runs(knowing: "Zoo", tmp_path: Path) -> None:
    mark = knowing.entry("tiny-a").predictions().splits["val"].fingerprint
    for name, fitted, changes in (
        ("proper", {"split": "val", "fingerprint": mark}, {}),
        ("elsewhere", {"split": "val", "fingerprint": "5" * 64}, {}),
        ("silent", None, {}),
        ("other", None, OTHERS),
    ):
        write_graph(tmp_path / f"{name}.onnx", {**LOCKFILE, "fitted_on": fitted, **changes})
    source = knowing.split_source()
    plan = Plan(parse_members("tiny-a"), sets=("none",), graphs=find_graphs(tmp_path))
    record = gather(plan, source, knowing.split_source("val"), bench=bench_of(source))
    found = {p.name: (p.val_accuracy, p.val_precision) for p in record.points if p.runtime == "ONNX Runtime"}
    assert found == {"proper": (0.9, "fp32"), "elsewhere": (None, None), "silent": (None, None)}
    assert "left out: other.onnx is for svhn, not for cifar10 and its classes" in record.notes
    assert "elsewhere.onnx was fitted on other validation images (55555555)" in record.fitted
    assert "silent.onnx does not say" in record.fitted


def test_nothing_runs_on_other_images_than_those_of_the_predictions(
    knowing: "Zoo", reseal: Callable[[Path], None]
) -> None:
    stored = dict(knowing.entry("tiny-a").predictions().splits)
    stored["test"] = replace(stored["test"], fingerprint="5" * 64)
    (knowing.source / "tiny-a" / "predictions.safetensors").write_bytes(Predictions(stored).encode())
    reseal(knowing.source / "tiny-a")
    source = SplitSource("cifar10", "test")
    source.split = knowing.split
    with pytest.raises(DataError, match="the test images at hand are not those of the stored predictions"):
        gather(Plan(parse_members("tiny-a")), source, SplitSource("cifar10", "val"), bench=bench_of(source))
    assert gather(Plan(parse_members("tiny-a")), source, SplitSource("cifar10", "val")).points
