"""The learning rates that are drawn, against the schedules' formulas, and that pictures are written."""

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import random_split
from training.draw import draw_curves, draw_schedule, learning_rates
from training.job import Job
from training.recipe import Optimizer, ParamGroup, Recipe, Schedule
from training.run import RunFolder
from zoo.data import MEAN_STD


def job(**changes: Any) -> Job:  # noqa: ANN401
    """Five epochs of four steps, unless said otherwise."""
    fields: dict[str, Any] = {
        "name": "mine",
        "arch": "fastnet",
        "epochs": 5,
        "batch_size": 2,
        "precision": "fp32",
        "optimizer": Optimizer(0.5),
        "schedule": Schedule("linear"),
    }
    return Job(Recipe(**(fields | changes)), 0, "noise", random_split(8), random_split(4), *MEAN_STD["cifar10"])


def test_every_step_of_a_short_run_is_shown() -> None:
    assert learning_rates(job()) == {"*": pytest.approx([0.5 * (1 - step / 20) for step in range(20)])}


def test_points_are_at_equal_distances_from_the_first_step_to_the_last() -> None:
    (rates,) = learning_rates(job(epochs=50), points=5).values()
    steps = [0, 50, 100, 149, 199]  # of 200, to the nearest
    assert rates == pytest.approx([0.5 * (1 - step / 200) for step in steps])
    assert learning_rates(job(), points=1) == {"*": [0.5]}


def test_long_run_is_shown_by_600_points() -> None:
    (rates,) = learning_rates(job(epochs=1000)).values()
    assert len(rates) == 600
    assert rates[0] == 0.5
    assert rates[-1] == pytest.approx(0.5 / 4000)
    assert rates == sorted(rates, reverse=True)


def test_schedule_by_epoch_changes_as_epochs_begin() -> None:
    (rates,) = learning_rates(job(schedule=Schedule(by="epoch"))).values()
    by_epoch = [0.25 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    assert rates == pytest.approx([rate for rate in by_epoch for _ in range(4)])


def test_each_group_has_its_own_but_those_that_wait_for_a_plateau() -> None:
    groups = (
        ParamGroup("a.*", Optimizer(2.0), Schedule("constant")),
        ParamGroup("b.*", Optimizer(3.0), Schedule("plateau")),
    )
    rates = learning_rates(job(groups=groups))
    assert list(rates) == ["a.*", "*"]
    assert rates["a.*"] == [2.0] * 20
    assert rates["*"][0] == 0.5


@pytest.mark.parametrize("kind", ["constant", "plateau"])
def test_group_of_everything_leaves_nothing_to_the_rest(kind: Any) -> None:  # noqa: ANN401
    rates = learning_rates(job(groups=(ParamGroup("*", Optimizer(2.0), Schedule(kind)),)))
    assert rates == ({"*": [2.0] * 20} if kind == "constant" else {})


def png_size(path: Path) -> tuple[int, ...]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def test_schedule_is_drawn_into_the_runs_folder(tmp_path: Path) -> None:
    some = job()
    draw_schedule(RunFolder(tmp_path, some), some)
    assert min(png_size(tmp_path / "schedule.png")) > 400


def test_no_schedule_known_beforehand_is_no_picture(tmp_path: Path) -> None:
    some = job(schedule=Schedule("plateau"))
    draw_schedule(RunFolder(tmp_path, some), some)
    assert not (tmp_path / "schedule.png").exists()


def test_curves_are_drawn_once_there_are_metrics(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job())
    draw_curves(run, [], "mine")
    assert not (tmp_path / "curves.png").exists()
    draw_curves(run, [{"epoch": 1.0, "train_loss": 2.0, "val_accuracy": 0.3}], "mine")
    assert min(png_size(tmp_path / "curves.png")) > 400
