"""Checkpoint files of torch.save and of safetensors, read without running anything that is in them."""

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import CorruptError, DataError, NotFoundError
from zoo.header import read_header

__all__ = ["Content", "check_archive", "read_checkpoint"]

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch.save before 1.6
_TAR = (257, b"ustar")
_LONGEST_PICKLE = 64 << 20
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Whatever a damaged file provokes in zipfile, in torch's unpickler or in its C++, by the bases of what is raised.
_BAD = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    EOFError,
    OSError,
    MemoryError,
    ImportError,
    struct.error,
    pickle.PickleError,
    zipfile.BadZipFile,
)


class Content(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        tree: what was saved: tensors and plain values, in dictionaries and lists.
        ordered: whether names come in the order in which the network defined them; safetensors files are sorted.
    """

    tree: Any
    ordered: bool


def read_checkpoint(path: Path) -> Content:
    """Read a file of `torch.save`, in its zip or its older format, or a safetensors file; its name does not matter.

    Tensors come back on the CPU, as they were stored.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: in neither format, truncated, compressed, or it claims more than it has.
        DataError: it holds more than tensors and plain values: a whole network, or something that would run.
    """
    if not path.is_file():
        raise NotFoundError(f"checkpoint {str(path)!r} {'is no file' if path.exists() else 'does not exist'}")
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(_ZIP):
        _check_torch_zip(path)
    elif not start.startswith(_LEGACY):
        offset, mark = _TAR
        if start[offset:].startswith(mark):
            raise DataError(f"{path} is a tar archive: unpack it, and import the checkpoint in it")
        if start.startswith(b"\x80") and start[8:9] != b"{":
            raise DataError(
                f"{path} is a pickle that torch.save did not write; such are never loaded, they can run code"
            )
        if start[8:9] != b"{":  # where the header of a safetensors file begins
            empty = "" if start else ": it is empty"
            raise CorruptError(f"{path} is neither a checkpoint of torch.save nor a safetensors file{empty}")
        return Content(_read_safetensors(path), ordered=False)
    return Content(_torch_load(path), ordered=True)


def _read_safetensors(path: Path) -> Any:  # noqa: ANN401  # a tree with one level
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415  # imports torch

    with path.open("rb") as file:
        read_header(file, str(path))
    try:
        return load_file(path)
    except (SafetensorError, *_BAD) as error:
        raise CorruptError(f"{path} is not a readable safetensors file: {error}") from error


def _torch_load(path: Path) -> Any:  # noqa: ANN401  # whatever somebody saved
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old protocols and slow checks, which are not the user's to change
            return torch.load(path, map_location="cpu", weights_only=True)
    except _BAD as error:
        found = _GLOBAL.search(str(error))
        if found:
            raise DataError(
                f"{path} holds more than tensors ({found[1]}), and nothing that could run is loaded: ask for its state "
                "dict or a safetensors file, or, if you trust who made it, save its state dict with torch yourself"
            ) from error
        raise CorruptError(f"{path} is truncated or damaged: it cannot be read as a checkpoint") from error


def _check_torch_zip(path: Path) -> None:
    """Raise unless a zip archive is one of `torch.save`: nothing compressed, no program."""
    entries = check_archive(path, path.stat().st_size)
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise DataError(f"{path} is a TorchScript program, which is never loaded: ask for a state dict")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CorruptError(f"{path} has compressed parts, which torch.save does not write: unpack it first")
        if entry.filename.endswith(".pkl") and entry.file_size > _LONGEST_PICKLE:
            raise CorruptError(
                f"{path} has a pickle of {entry.file_size:,} bytes, far beyond what names and shapes take"
            )


def check_archive(path: Path, most: int) -> list[zipfile.ZipInfo]:
    """Return the parts of a zip archive.

    Args:
        path: of the archive.
        most: how many bytes they may have together, unpacked.

    Raises:
        CorruptError: no readable archive, or more bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _BAD as error:
        raise CorruptError(f"{path} is truncated or damaged: it is no readable zip archive") from error
    claimed = sum(entry.file_size for entry in entries)
    if claimed > most:
        raise CorruptError(f"{path} claims to unpack to {claimed:,} bytes, where at most {most:,} are sensible")
    return entries
