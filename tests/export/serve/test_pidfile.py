"""The file that says which process a command is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from export.serve.pidfile import pid_file
from tests.conftest import files_up_to
from zoo.errors import NotFoundError, StorageError, UsageError

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys
from pathlib import Path
from export.serve.pidfile import pid_file
with pid_file(Path(sys.argv[1])) as write:
    write()
    print("ready", flush=True)
    input()
"""


def test_it_is_there_once_it_is_written_and_goes_at_the_end(place: Path) -> None:
    path = place / "server.pid"
    with pid_file(path) as write:
        assert list(place.iterdir()) == []
        write()
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(place.iterdir()) == [path]
    assert list(place.iterdir()) == []


def test_it_goes_after_an_error_and_need_not_be_written(place: Path) -> None:
    def fail() -> None:
        with pid_file(place / "pid") as write:
            write()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with pid_file(place / "pid"):
        pass
    with pid_file(None) as write:
        write()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("content", ["", "1\n", f"{2**22 + 1}\n"])
def test_a_file_that_was_left_behind_is_written_over(place: Path, content: str) -> None:
    path = place / "pid"
    path.write_text(content)  # also the number of a process that runs, but is another program
    with pid_file(path) as write:
        assert path.read_text() == content
        write()
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", [b"model", b"\x08\x01", b"-1", b"1 2"])
def test_a_file_of_another_kind_stays(place: Path, content: bytes) -> None:
    path = place / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is something else: give another name"), pid_file(path):
        pass
    assert path.read_bytes() == content
    with pytest.raises(UsageError, match="is something else"), pid_file(place):
        pass


def test_a_running_process_keeps_its_file_and_a_killed_one_does_not(place: Path) -> None:
    path = place / "pid"
    command = [sys.executable, "-c", PROGRAM, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert path.read_text() == f"{process.pid}\n"
        sentence = re.escape(f"is of process {process.pid}, which is running: stop it, or give another file")
        with pytest.raises(UsageError, match=sentence), pid_file(path):
            pass
        process.kill()
    assert path.exists()
    with pid_file(path) as write:
        write()
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_file_of_somebody_who_came_after_stays(place: Path) -> None:
    path = place / "pid"
    with pid_file(path) as write:
        write()
        path.unlink()
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_two_that_start_at_once(place: Path) -> None:
    path = place / "pid"
    with pid_file(path) as first, pid_file(path) as second:
        first()
        with pytest.raises(UsageError, match="is running"):
            second()
        assert path.read_text() == f"{os.getpid()}\n"


def test_places_that_take_no_file(place: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no folder"), pid_file(place / "nix" / "pid"):
        pass
    with pid_file(place / "pid") as write, files_up_to(0), pytest.raises(StorageError, match="cannot write"):
        write()
    assert list(place.iterdir()) == []
