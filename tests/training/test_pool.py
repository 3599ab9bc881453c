"""Trials on this machine: each ends for itself, none is done twice, and the GPUs are dealt out."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.training.stand_in import PROGRAM, starts, trial_in
from training.pool import run_here

if TYPE_CHECKING:
    from training.trial import Outcome


def test_a_failure_stops_nothing_but_itself_and_nothing_is_done_twice(tmp_path: Path) -> None:
    trials = [trial_in(tmp_path, seed) for seed in (1, 13, 2)]
    told: list[Outcome] = []
    outcomes = run_here(trials, PROGRAM, jobs=2, report=told.append)
    assert outcomes == told
    assert {o.trial.seed: o.error is None for o in outcomes} == {1: True, 13: False, 2: True}

    again = run_here(trials, PROGRAM, report=lambda _outcome: None)
    assert {o.trial.seed: o.skipped for o in again} == {1: True, 13: False, 2: True}
    counted = {trial.seed: len(starts(tmp_path / "runs" / trial.name)) for trial in trials}
    assert counted == {1: 1, 13: 2, 2: 1}, "what failed is tried again"


def test_each_job_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_PAUSE", "0.3")
    trials = [trial_in(tmp_path, seed) for seed in (1, 2, 3)]
    run_here(trials, PROGRAM, jobs=2, gpus=("4", "6"), report=lambda _outcome: None)
    seen = [starts(tmp_path / "runs" / trial.name)[0][3] for trial in trials]
    assert seen[:2] == ["4", "6"]
    assert seen[2] in {"4", "6"}


def test_asked_to_stop_it_starts_no_more_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_EPOCHS", "30")
    monkeypatch.setenv("STAND_IN_PAUSE", "0.05")
    trials = [trial_in(tmp_path, seed) for seed in (1, 2)]
    state = tmp_path / "runs" / trials[0].name / "state"
    outcomes = run_here(trials, PROGRAM, report=lambda _outcome: None, stopped=state.exists)
    assert outcomes == []
    assert 0 < int(state.read_text()) < 30
    assert not (tmp_path / "runs" / trials[1].name).exists()

    monkeypatch.setenv("STAND_IN_PAUSE", "0")
    outcomes = run_here(trials, PROGRAM, report=lambda _outcome: None)
    assert [o.error for o in outcomes] == [None, None]
    assert starts(state.parent)[1][0] > 0, "from its checkpoint"
