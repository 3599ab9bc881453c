"""Files and folders that appear whole or not at all, and their sha256 sums."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import CorruptError, StorageError

__all__ = [
    "LONGEST_SUMS",
    "SUMS",
    "atomic_write",
    "check_writable",
    "is_digest",
    "is_plain",
    "new_folder",
    "parse_sums",
    "sha256_file",
    "storage_errors",
    "warn_if_not_kept",
    "write_sums",
]

SUMS = "SHA256SUMS"
"""Name of the file, in `sha256sum` format, that covers every other file of an entry."""

LONGEST_SUMS = 1 << 20
"""Bytes; an entry of ten thousand files has about as many."""

_DIGEST = re.compile("[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn any `OSError` raised inside into a `StorageError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


@contextmanager
def warn_if_not_kept(what: str) -> Iterator[None]:
    """Turn a `StorageError` raised inside into a warning: a cache that the disk refuses costs no result.

    Args:
        what: would have been kept, in words.
    """
    try:
        yield
    except StorageError as error:
        _log.warning("%s; %s is not kept", error, what)


def atomic_write(path: Path, content: bytes) -> None:
    """Write `content` to `path` by way of a temporary file in the same folder, flushed before it is renamed.

    Raises:
        StorageError: the disk is full or refuses; `path` is as it was before (a pipe or device is written directly).
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():  # a pipe or a device, which must not be replaced by a file
            path.write_bytes(content)
            return
        path = path.resolve()  # a link stays a link
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # noqa: PTH101  # mkstemp's 0600 would hide the file from other users
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def check_writable(folder: Path) -> None:
    """Make sure that a folder is there or can be made, and takes files: long work should not end in a refusal.

    Nothing is left behind.

    Raises:
        StorageError: it cannot be made or written to.
    """
    with (
        storage_errors(folder),
        tempfile.TemporaryDirectory(
            prefix=".check.", dir=next(path for path in (folder, *folder.absolute().parents) if path.exists())
        ),
    ):
        pass


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    Whoever looks at `target` sees no folder (or the old one), or the complete new one.

    Args:
        target: where the folder shall be.
        replace: whether an existing `target` may be replaced.

    Raises:
        StorageError: the disk refuses, or `target` exists and `replace` is false; `target` is as it was.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with storage_errors(target):
            work.chmod(0o755)
            yield work
            there = os.path.lexists(target)  # a link that leads nowhere is in the way, too
            if there and replace:
                _swap(work, target)
            elif there:
                raise StorageError(f"cannot write {target}: it exists already")
            else:
                work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, target: Path) -> None:
    """Put a folder in the place of what is there, and remove that; if it cannot be put there, what was comes back."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = aside / "old"  # inside, so that a file or a link can be moved there too
    try:
        target.replace(old)
        work.replace(target)
    except BaseException:
        if os.path.lexists(old):
            old.replace(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over every other file in `folder`, sorted by name."""
    lines = [f"{sha256_file(p)}  {p.name}\n" for p in sorted(folder.iterdir()) if p.name != SUMS]
    atomic_write(folder / SUMS, "".join(lines).encode())


def parse_sums(content: bytes, where: str) -> dict[str, str]:
    """Return file name -> sha256 as the bytes of a `SHA256SUMS` have it; `where` names the file in errors.

    Raises:
        CorruptError: malformed, longer than `LONGEST_SUMS`, or it names a file outside its folder.
    """
    if len(content) > LONGEST_SUMS:
        raise CorruptError(f"{where} is longer than the sums of an entry are, so nothing in it can be trusted")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"{where} cannot be read, so nothing in this entry can be trusted") from error
    sums: dict[str, str] = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if not is_digest(digest) or not is_plain(name) or name in sums:
            raise CorruptError(f"{where} is malformed at {line[:80]!r}")
        sums[name] = digest
    if not sums:
        raise CorruptError(f"{where} is empty, so nothing in this entry can be trusted")
    return sums


def is_digest(text: object) -> bool:
    """Say whether `text` is a sha256 in hex."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_plain(name: str) -> bool:
    """Say whether `name` can only mean a file in the folder itself, and not `SHA256SUMS`."""
    return name.isprintable() and name == Path(name).name and "\\" not in name and name not in {"", ".", "..", SUMS}
