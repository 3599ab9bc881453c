"""A file that says which process a running command is, so that others can send it signals.

The command holds a lock on it: the kernel takes that back whenever the process ends, however it does. So a file that
was left behind is known as such, even when another process has got the number meanwhile.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import NotFoundError, UsageError
from zoo.files import check_writable, storage_errors

__all__ = ["pid_file"]

_LONGEST = 32  # bytes of a number with its line's end


@contextmanager
def pid_file(path: Path | None) -> Iterator[Callable[[], None]]:
    """Yield what writes this process's number to a file, which goes when the block ends; without one, nothing happens.

    Raises:
        UsageError: a running process has the file, or there is something in it that is no process's number.
        NotFoundError: there is no such folder.
        StorageError: the disk refuses.
    """
    if path is None:
        yield lambda: None
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise NotFoundError(f"--pid-file {str(path)!r}: there is no folder {str(folder)!r}")
    check_writable(folder)
    _check(path)
    held = -1

    def write() -> None:
        nonlocal held
        _check(path)
        with storage_errors(path):
            held, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
            try:
                os.fchmod(held, 0o644)  # mkstemp's 0600 would hide it from other users
                os.write(held, f"{os.getpid()}\n".encode())
                fcntl.flock(held, fcntl.LOCK_EX)
                Path(name).replace(path)  # whole, and locked, from the beginning
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    try:
        yield write
    finally:
        if held >= 0:
            if _leads_to(path, held):  # and not to a file of somebody who came after
                path.unlink(missing_ok=True)
            os.close(held)


def _check(path: Path) -> None:
    """Raise `UsageError` unless there is no file, or one that a process left behind."""
    other = UsageError(f"--pid-file {str(path)!r} is something else: give another name, or remove it")
    if path.exists() and not path.is_file():
        raise other
    with storage_errors(path):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            content = os.read(fd, _LONGEST).strip()
            if content and not content.isdigit():
                raise other
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"--pid-file {str(path)!r} is of process {content.decode()}, which is running: "
                    "stop it, or give another file"
                ) from error
        finally:
            os.close(fd)


def _leads_to(path: Path, fd: int) -> bool:
    """Say whether a path leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
