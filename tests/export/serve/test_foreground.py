"""Signals and streams of a long-running command, in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from export.serve.foreground import Signals, Stopped, until_stopped

ROOT = Path(__file__).parents[3]

SIGNALS = """
from export.serve.foreground import Signals, Stopped
import signal
before = signal.getsignal(signal.SIGTERM)
try:
    with Signals() as signals:
        print("early", flush=True)
        input()
        signals.gently()
        print("ready", flush=True)
        while True:
            asked = signals.wait(60)
            print(asked, flush=True)
            if asked == "stop":
                print("draining", flush=True)
                signal.pause()
except Stopped:
    print("stopped", flush=True)
assert signal.getsignal(signal.SIGTERM) is before
"""


@contextmanager
def program(text: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ready(process: "subprocess.Popen[str]") -> None:
    assert line(process) == "early"
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert line(process) == "ready"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_anything_runs_a_signal_stops_at_once(number: signal.Signals) -> None:
    with program(SIGNALS) as process:
        assert line(process) == "early"
        process.send_signal(number)
        assert line(process) == "stopped"
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_then_it_is_a_request_and_a_second_one_stops_at_once(number: signal.Signals) -> None:
    with program(SIGNALS) as process:
        ready(process)
        process.send_signal(number)
        assert [line(process), line(process)] == ["stop", "draining"]
        process.send_signal(number)
        assert line(process) == "stopped"
        assert process.wait(10) == 0


def test_hangups_are_requests_to_reload() -> None:
    with program(SIGNALS) as process:
        ready(process)
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            assert line(process) == "reload"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stop"


def test_who_is_busy_can_see_a_request_to_stop() -> None:
    with Signals() as signals:
        signals.gently()
        signal.raise_signal(signal.SIGHUP)
        seen = [signals.stopping]
        signal.raise_signal(signal.SIGTERM)
        assert [*seen, signals.stopping] == [False, True]
        assert signals.wait(0) == "stop"


def test_a_wish_that_a_library_has_swallowed_is_known_later() -> None:
    with Signals() as signals:
        for _ in range(2):
            with contextlib.suppress(Stopped):
                signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.gently()


@pytest.mark.parametrize("error", [Stopped(), SystemExit(signal.SIGTERM)])
def test_a_wish_for_an_end_is_no_error(error: BaseException) -> None:
    with until_stopped():
        raise error


@pytest.mark.parametrize("error", [SystemExit(1), SystemExit("why"), KeyboardInterrupt(), ValueError()])
def test_errors_are(error: BaseException) -> None:
    with pytest.raises(type(error)), until_stopped():
        raise error


STREAMS = """
import os, subprocess, sys
from export.serve.foreground import own_streams
print("before")
with own_streams() as streams:
    print("of a library")
    os.write(2, b"of C\\n")
    subprocess.run(["echo", "of a child"], check=True)
    streams.say("a result")
    streams.note("a note", "another")
print("after")
print("after, too", file=sys.stderr)
"""


def test_nobody_else_writes_to_the_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STREAMS], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "before\na result\nafter\n"
    assert done.stderr == "a note\nanother\nafter, too\n"


REAPER = """
import subprocess, sys
from export.serve.reaper import reaper
with reaper() as folder:
    (folder / "model").write_text("x")
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(folder, child.pid, flush=True)
    input()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_what_outlives_its_program_is_ended(killed: bool) -> None:
    with program(REAPER) as process:
        folder, child = line(process).split()
        assert (Path(folder) / "model").exists()
        if killed:
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(10)
    for _ in range(300):
        if not Path(f"/proc/{child}").exists() and not Path(folder).exists():
            break
        signal.sigtimedwait([], 0.05)
    assert not Path(f"/proc/{child}").exists()
    assert not Path(folder).exists()
