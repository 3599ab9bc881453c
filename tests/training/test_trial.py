"""A trial's process: how it ends, that it is alone, and that it does not outlive whoever started it."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.stand_in import PROGRAM, ROOT, gone, starts, trial_in, until
from tests.zoo.conftest import file_entry, flip_bit
from training.trial import Running, finished, last_line, stop


def test_a_trial_ends_with_what_its_card_says_of_the_validation_split(tmp_path: Path) -> None:
    trial = trial_in(tmp_path, seed=4)
    assert finished(trial) is None
    outcome = Running(trial, PROGRAM).wait()
    assert (outcome.error, outcome.seconds, outcome.skipped) == (None, 7, False)
    assert outcome.accuracy == pytest.approx({"none": 0.894, "flip": 0.904})
    again = finished(trial)
    assert again is not None
    assert again == replace(outcome, skipped=True)


def test_a_failure_is_the_last_line_of_the_log(tmp_path: Path) -> None:
    outcome = Running(trial_in(tmp_path, seed=13), PROGRAM).wait()
    assert outcome.error == "the loss is nan in epoch 2 (step 7): lower the learning rate"
    assert (outcome.accuracy, outcome.killed) == ({}, False)
    assert outcome.trial.log.read_text().startswith("epoch 1\nepoch 2\n")


@pytest.mark.parametrize(
    ("program", "error", "killed"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL", True),
        ("raise SystemExit(3)", "exit code 3", False),
        ("", "it filed no entry in ", False),
    ],
)
def test_other_ways_to_end(tmp_path: Path, program: str, error: str, killed: bool) -> None:
    outcome = Running(trial_in(tmp_path), program).wait()
    assert outcome.error is not None
    assert outcome.error.startswith(error)
    assert outcome.killed is killed


def test_an_entry_of_another_training_is_not_the_result(tmp_path: Path) -> None:
    trial = trial_in(tmp_path)
    said: dict[str, Any] = {
        "recipe": "fastnet",
        "seed": 1,
        "metrics": {"val": {"flip": 0.5}},
        "training": {"epochs": 10},
    }
    file_entry(trial.entries, trial.name, **said)
    assert finished(trial) is not None
    assert finished(replace(trial, same={**trial.same, "epochs": 10, "overrides": None})) is not None
    others: list[dict[str, object]] = [
        {"recipe": "resnet18"},
        {"seed": 2},
        {"epochs": 9},
        {"overrides": ["batch_size=8"]},
    ]
    for other in others:
        assert finished(replace(trial, same={**trial.same, **other})) is None
    flip_bit(trial.entries / trial.name / "config.json", 40)
    assert finished(trial) is None


def test_an_entry_without_a_validation_accuracy_is_no_result(tmp_path: Path) -> None:
    trial = trial_in(tmp_path)
    file_entry(trial.entries, trial.name, recipe="fastnet", seed=1, metrics={"test": {"flip": 0.99}})
    assert finished(trial) is None


def test_a_builtin_entry_will_do_for_a_plain_recipe(tmp_path: Path) -> None:
    trial = trial_in(tmp_path, name="fastnet-seed1")
    assert finished(trial) is None
    found = finished(replace(trial, anywhere=True))
    assert found is not None
    assert found.accuracy["flip"] > 0.9


def test_two_at_once_leave_each_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_PAUSE", "0.5")
    trial = trial_in(tmp_path)
    first = Running(trial, PROGRAM)
    second = Running(trial, PROGRAM, patience=0).poll()
    assert second is not None
    assert second.error == "another process is training it at this moment"
    assert first.wait().error is None
    assert len(starts(tmp_path / "runs" / trial.name)) == 1


def test_told_to_stop_it_saves_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_EPOCHS", "40")
    monkeypatch.setenv("STAND_IN_PAUSE", "0.05")
    trial, run = trial_in(tmp_path), tmp_path / "runs" / "fastnet-lr-seed1"
    running = Running(trial, PROGRAM)
    until((run / "state").exists)
    stop([running])
    ended = running.poll()
    assert ended is not None
    assert ended.error == "stopped: go on with the same command"
    done = int((run / "state").read_text())
    assert 0 < done < 40
    monkeypatch.setenv("STAND_IN_PAUSE", "0")
    assert Running(trial, PROGRAM).wait().error is None
    assert [begun for begun, *_ in starts(run)] == [0, done]


def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    trial = trial_in(tmp_path)
    running = Running(trial, deaf)
    until(lambda: last_line(trial.log) == "up")
    stop([running], grace=0.1)
    until(lambda: running.poll() is not None)
    ended = running.poll()
    assert ended is not None
    assert ended.error == "killed by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_trial_does_not_outlive_a_killed_sweep(tmp_path: Path) -> None:
    sweep = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
        "from tests.training.stand_in import PROGRAM, trial_in; from training.trial import Running; "
        f"Running(trial_in(Path({str(tmp_path)!r})), PROGRAM).wait()"
    )
    environment = os.environ | {"STAND_IN_EPOCHS": "1000", "STAND_IN_PAUSE": "0.05"}
    parent = subprocess.Popen([sys.executable, "-c", sweep], env=environment)
    run = tmp_path / "runs" / "fastnet-lr-seed1"
    until((run / "state").exists)
    ((_, parent_id, own, _),) = starts(run)
    assert parent_id == parent.pid
    assert not gone(own)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(own))


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not last_line(log)
    log.write_bytes(b"\n \n")
    assert not last_line(log)
    log.write_bytes(b"first\r\x1b[2K" + b"x" * 50_000 + b"\nlast \xff\n\n")
    assert last_line(log) == "last \N{REPLACEMENT CHARACTER}"
    log.write_bytes(b"y" * 50_000)
    assert last_line(log) == "y" * 300
