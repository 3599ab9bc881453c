"""Ends the processes that a program started and that outlive it, and removes its folder.

Ray's processes end with the program that started them, but not all at once: when that is killed, two helpers wait for a
minute to report it to somebody who has ended, too. What Ray wrote below /tmp/ray stays then: it may say why.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MARK", "reaper"]

MARK = "MENAGERIE_SERVER"
"""Variable by which the processes of a server are known."""

_PROGRAM = """
import os, shutil, signal, sys, time
sys.stdin.read()  # its end is the program's
time.sleep(2)
shutil.rmtree(sys.argv[2], ignore_errors=True)
for folder in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
    try:
        if folder.isdigit() and sys.argv[1].encode() in open(f"/proc/{folder}/environ", "rb").read().split(b"\\0"):
            os.kill(int(folder), signal.SIGKILL)
    except OSError:
        continue  # it has ended, or is somebody else's
"""


@contextmanager
def reaper() -> Iterator[Path]:
    """Yield a new folder, and see to it that it goes when this block or this process ends, however that is.

    So do the processes that are started in the block. They are known by a variable of their environment, where there is
    a `/proc` to read it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ensemble-serve-"))
    own = {name: value for name, value in os.environ.items() if name != MARK}
    mark = uuid.uuid4().hex
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, f"{MARK}={mark}", str(folder)]
    quiet = subprocess.DEVNULL
    watch = subprocess.Popen(  # noqa: S603  # ourselves
        command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=own, start_new_session=True
    )
    os.environ[MARK] = mark
    os.environ.setdefault("SPT_NOENV", "1")  # Ray's processes write their titles over their environment otherwise
    try:
        yield folder
    finally:
        del os.environ[MARK]
        assert watch.stdin is not None  # noqa: S101  # a pipe
        watch.stdin.close()
        watch.returncode = 0  # it ends by itself, and nobody waits
        shutil.rmtree(folder, ignore_errors=True)
