"""Server processes for tests of `ensemble serve`."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROGRAM = "import sys; from zoo.cli.group import run; from ensemble.cli.serve import command; sys.exit(run(command))"
ROOT = Path(__file__).parents[3]

SHARED = {
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 16}',  # for more servers than the machine has cores
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
}
"""Environment of a server whose Ray others may use."""


@dataclass
class Process:
    """`ensemble serve`, running."""

    process: "subprocess.Popen[str]"
    reader: threading.Thread
    ready: dict[str, Any]
    notes: list[str]

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cluster(self) -> dict[str, Any]:
        """For `started`: Ray's address, and the environment in which it is reached."""
        for pid in family(self.process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            found = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
            if found:
                return {"address": found[0], "environment": {**SHARED, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}}
        raise AssertionError("there is no Ray below the server")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for_note(self, text: str, seconds: float = 60) -> str:
        """Return the line on stderr that has this text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.notes:
                if text in line:
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no line with {text!r} in {self.notes}")

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Ask it to stop, and return its exit code."""
        self.send(number)
        code = self.process.wait(seconds)
        self.reader.join(seconds)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@contextmanager
def started(
    *words: object, environment: dict[str, str] | None = None, address: str | None = None, before: str = ""
) -> Iterator[Process]:
    """Start a server, yield it once it is ready, and end it if the test has not.

    Args:
        words: of the command line.
        environment: besides that of the tests.
        address: of a cluster.
        before: a program that the command's process runs first.
    """
    where = [] if address is None else ["--address", address]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{PROGRAM}", *map(str, words), "--port", "0", "--json", *where],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stderr, notes = process.stderr, list[str]()

    def gather() -> None:
        for line in stderr:
            notes.append(line.rstrip("\n"))

    reader = threading.Thread(target=gather, daemon=True)
    reader.start()
    line = process.stdout.readline()
    assert line, f"the server did not start: {notes}"
    found = Process(process, reader, json.loads(line), notes)
    try:
        yield found
    finally:
        if process.poll() is None:
            found.end()


def run(*words: object, environment: dict[str, str] | None = None, address: str = "") -> tuple[int, str, str]:
    """Start what is to end by itself within a minute, and return its exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words), *(["--address", address] if address else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return done.returncode, done.stdout, done.stderr


def family(pid: int) -> set[int]:
    """Return a process and those below it."""
    return {pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))}


def is_running(pid: int) -> bool:
    """Say whether a process is there, and is not a zombie that nobody has asked about."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
