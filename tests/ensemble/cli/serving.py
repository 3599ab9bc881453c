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

PROGRAM = "import sys; from zoo.cli.group import run; from ensemble.cli.serve import command; sys.exit(run(command))"
ROOT = Path(__file__).parents[3]


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
def started(*words: object, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Start a server, yield it once it is ready, and end it if the test has not."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words), "--port", "0", "--json"],
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


def family(pid: int) -> set[int]:
    """Return the processes below one, from /proc."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue  # it has ended meanwhile
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, last = {pid}, 0
    while len(found) != last:
        last = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def is_running(pid: int) -> bool:
    """Say whether a process is there, and is not a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
