"""The weight files of an entry, opened once: what was hashed is what is mapped."""

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.header import Header, joined_digest, read_header
from zoo.regular import open_regular
from zoo.verified import Mark, look

if TYPE_CHECKING:
    import torch

__all__ = ["WeightFiles", "open_weights"]


class WeightFiles:
    """Open weight files.

    Another file that takes the name of one of these is not noticed, and does no harm: hashing, reading and mapping go
    by what was opened. Not promised is what no program can have without a copy of its own: that nobody writes into the
    open file afterwards. An entry's files are only ever replaced by this project, never written into.

    Args:
        files: name -> the file, open.
        folder: where they lie, for errors.
    """

    def __init__(self, files: Mapping[str, BufferedReader], folder: Path) -> None:
        self._files = files
        self._folder = folder

    def marks(self, known: Mapping[str, Mark]) -> dict[str, Mark]:
        """Return the sha256 of each file, read from it unless it looks as it did when it was hashed before.

        Args:
            known: file name -> what was found before.
        """
        found = {}
        for name, file in self._files.items():
            # Of before the hashing: if the file changes meanwhile, its next look is another.
            now = look(os.fstat(file.fileno()))
            before = known.get(name)
            if before is None or before.look != now:
                file.seek(0)
                before = Mark(hashlib.file_digest(file, "sha256").hexdigest(), now)
            found[name] = before
        return found

    def headers(self) -> dict[str, Header]:
        """Return the header of each file, checked; errors as in `zoo.header.read_header`."""
        return {name: read_header(file, str(self._folder / name)) for name, file in self._files.items()}

    def joined_digest(self, headers: Mapping[str, Header]) -> str:
        """Return the sha256 of the one canonical file with all tensors."""
        return joined_digest([(file, headers[name]) for name, file in self._files.items()])

    def tensors(self, headers: Mapping[str, Header]) -> "dict[str, torch.Tensor]":
        """Return all tensors as they are stored, mapped into memory: no byte is read before it is used.

        They may be changed in memory, and the files stay as they are.
        """
        found: dict[str, torch.Tensor] = {}
        for name, file in self._files.items():
            # Copy on write. The tensors keep the mapping, and the mapping outlives the file's name and handle.
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            found |= _mapped(memory, headers[name])
        return found


def _mapped(memory: mmap.mmap, header: Header) -> "dict[str, torch.Tensor]":
    """Return the tensors of a mapped file, without copying those that lie where a processor can read them."""
    import torch  # noqa: PLC0415  # keeps `zoo verify` free of torch

    dtypes = {
        "BF16": torch.bfloat16,
        "BOOL": torch.bool,
        "F16": torch.float16,
        "F32": torch.float32,
        "F64": torch.float64,
        "I16": torch.int16,
        "I32": torch.int32,
        "I64": torch.int64,
        "I8": torch.int8,
        "U8": torch.uint8,
    }
    found = {}
    for name, stored in header.tensors.items():
        dtype, begin = dtypes[stored.dtype], header.start + stored.begin
        length = stored.end - stored.begin
        if length == 0:
            found[name] = torch.empty(stored.shape, dtype=dtype)
        elif begin % dtype.itemsize:
            plain = torch.frombuffer(memory, dtype=torch.uint8, count=length, offset=begin).clone()
            found[name] = plain.view(dtype).view(stored.shape)
        else:
            flat = torch.frombuffer(memory, dtype=dtype, count=length // dtype.itemsize, offset=begin)
            found[name] = flat.view(stored.shape)
    return found


@contextmanager
def open_weights(folder: Path, names: Sequence[str]) -> Iterator[WeightFiles]:
    """Open an entry's weight files.

    Args:
        folder: the entry's.
        names: of the files.

    Raises:
        CorruptError: one cannot be read, or is no regular file.
    """
    with ExitStack() as stack:
        yield WeightFiles({name: stack.enter_context(open_regular(folder / name)) for name in names}, folder)
