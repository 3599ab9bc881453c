"""Ctrl-C and SIGTERM: as functions, in the command, and sent to a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.conftest import fastnet_recipe
from tests.zoo.conftest import Outcome, listing
from training.recipe import Recipe
from zoo import store
from zoo.cli.interrupt import stop_requests
from zoo.cli.progress import Progress

ROOT = Path(__file__).parents[3]
STEPS = 12

Command = Callable[..., Outcome]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert stop()
    assert signal.getsignal(number) is before


def test_the_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop_requests():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
    with stop_requests() as stop:
        assert not stop()


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, signals: int) -> None:
    """Send Ctrl-C when the command has told of so many steps."""
    advance, told = Progress.advance, []

    def pressed(self: Progress, amount: int) -> None:
        advance(self, amount)
        told.append(amount)
        if len(told) == step:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", pressed)


@pytest.mark.usefixtures("toy")
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    command: Command, data: Path, zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "toy", "--seed", "3", "--data", str(data), "--name", "mine")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/zoo", *words])
    with monkeypatch.context() as patched:
        interrupt_at(8, patched, signals=1)
        done = command(*words)
    assert (done.code, done.out) == (130, "")
    again = shlex.join(["zoo", *words])
    last = done.err.splitlines()[-1]
    assert last == f"error: stopped after step 9 of {STEPS}, state saved. Go on with: {again}"
    assert store.names([store.FolderSource(store.cache_folder())]) == []

    done = command(*words)
    assert done.code == 0
    assert done.err.splitlines()[0] == f"going on at step 9 of {STEPS} ({zoo_home / 'runs' / 'mine'})"
    whole = command(*words[:-2], "--to", tmp_path / "shelf", "--run-dir", tmp_path / "run", "--name", "mine", "-q")
    assert whole.code == 0
    one, other = (listing(folder / "mine") for folder in (zoo_home / "entries", tmp_path / "shelf"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["predictions.safetensors"] == other["predictions.safetensors"]


@pytest.mark.usefixtures("toy")
def test_a_second_ctrl_c_interrupts_at_once(
    command: Command, data: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(8, patched, signals=2)
        done = command("train", "toy", "--seed", 3, "--data", data)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "error: interrupted"
    done = command("train", "toy", "--seed", 3, "--data", data)
    assert done.err.splitlines()[0] == f"going on at step 6 of {STEPS} ({zoo_home / 'runs' / 'toy-seed3'})"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_a_process_of_its_own(
    number: signal.Signals,
    command: Command,
    data: Path,
    tmp_path: Path,
    write_recipe: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)
    path = write_recipe(fastnet_recipe(name="long", epochs=30))
    words = ["train", str(path), "--seed", "3", "--data", str(data)]
    state = tmp_path / "zoo-home" / "runs" / "long-seed3" / "state.pt"
    run = [sys.executable, "-c", "from zoo.cli import main; main()", *words]
    with subprocess.Popen(run, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1].endswith(f"state saved. Go on with: {shlex.join(['zoo', *words])}")
    assert "Traceback" not in said
    resumed = command(*words)
    assert resumed.code == 0
    assert resumed.err.startswith("going on at step ")
    whole = command(*words, "--to", tmp_path / "shelf", "--run-dir", tmp_path / "whole", "-q")
    assert whole.code == 0
    one, other = (listing(f / "long-seed3") for f in (tmp_path / "zoo-home" / "entries", tmp_path / "shelf"))
    assert one["model.safetensors"] == other["model.safetensors"]
