"""The header of a safetensors file, read without the tensors and without trust, and written in its canonical form.

A file is 8 bytes N (little-endian), N bytes of JSON, and the tensors' bytes. The JSON maps each name to `dtype`,
`shape` and `data_offsets`, the bytes [begin, end) after the header (https://huggingface.co/docs/safetensors). What is
accepted here is a part of what the safetensors library accepts: names given twice, unknown keys and types that no
checkpoint has are refused.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from zoo.errors import CorruptError

__all__ = ["DTYPES", "Header", "Stored", "canonical_header", "check_format", "joined_digest", "read_header", "unique"]

DTYPES: Mapping[str, int] = {
    "I64": 8,
    "F64": 8,
    "F32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Types a tensor may have here -> bytes a number; a canonical file holds tensors in the order of this table."""

_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES)}
_PICKLES = (b"\x80", b"PK\x03\x04")  # a bare pickle; a zip, which torch.save writes
_LONGEST = 2**24
_SHORTEST = 10
_MOST_DIMENSIONS = 64
_PIECE = 2**20


class Stored(NamedTuple):
    """A tensor of a file: a key of `DTYPES`, its shape, and its bytes [begin, end), counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """Where a file's data begins, and its tensors by name."""

    start: int
    tensors: Mapping[str, Stored]


def check_format(content: bytes, where: str) -> None:
    """Raise `CorruptError` unless `content` starts as a safetensors file does; `where` names the file."""
    _length(content[:_SHORTEST], len(content), where)


def read_header(file: BinaryIO, where: str) -> Header:
    """Read and check the header of an open file; `where` names it in errors.

    Raises:
        CorruptError: not a safetensors file, a header beyond 16 MiB, or tensors that do not fill the file one by one.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = _length(file.read(_SHORTEST), size, where)
    file.seek(8)
    text = file.read(length)
    try:
        tensors = _parse(text, size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{where} is not a readable safetensors file: {error}") from error
    return Header(8 + length, tensors)


def _length(beginning: bytes, size: int, where: str) -> int:
    """Return the length of the header of a file of `size` bytes, by its first ten; errors as in `read_header`."""
    is_json = beginning[8:9] == b"{"
    if beginning.startswith(_PICKLES) and not is_json:
        raise CorruptError(f"{where} is a pickle, not a safetensors file; pickles are never loaded, they can run code")
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < _SHORTEST or not is_json or not 2 <= length <= min(size - 8, _LONGEST):  # noqa: PLR2004
        raise CorruptError(f"{where} is not a safetensors file, or it is truncated")
    return length


def _parse(text: bytes, room: int) -> dict[str, Stored]:
    """Return the tensors that a header describes, which must fill `room` bytes; whatever error says what is wrong."""
    table: dict[str, Any] = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    about = table.pop("__metadata__", None) or {}
    if not all(isinstance(value, str) for value in about.values()):
        raise ValueError("its metadata is not text")
    tensors = {name: _stored(value) for name, value in table.items()}
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != position or tensor.end - tensor.begin != _bytes(tensor):
            raise ValueError(f"the bytes of {name[:80]!r} are not where they should be")
        position = tensor.end
    if position != room:
        raise ValueError(f"there are {room} bytes of tensors, not {position}")
    return tensors


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a table, as `object_pairs_hook`; `ValueError` if a name is given twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is given twice")
    return table


def _stored(table: dict[str, Any]) -> Stored:
    """Read the description of one tensor; any error says what is wrong."""
    if set(table) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"a tensor is described by {str(sorted(table))[:80]}")
    (begin, end), shape, dtype = table["data_offsets"], tuple(table["shape"]), table["dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"the type {str(dtype)[:20]!r} is not among {', '.join(DTYPES)}")
    if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
        raise ValueError("a shape or an offset is no number of things")
    # A dimension of zero hides how large the others are from whoever multiplies, but not from torch's strides.
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise ValueError("a tensor has more numbers than fit anywhere")
    return Stored(dtype, shape, begin, end)


def _bytes(tensor: Stored) -> int:
    return DTYPES[tensor.dtype] * math.prod(tensor.shape)


def _canonical_order(tensors: Mapping[str, Stored]) -> list[str]:
    return sorted(tensors, key=lambda name: (_RANK[tensors[name].dtype], name))


def canonical_header(tensors: Mapping[str, Stored]) -> bytes:
    """Return the length and the header with which the safetensors library writes these tensors to one file.

    Their bytes follow, by the order of `DTYPES` and then by name; `begin` and `end` of what is given play no part.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in _canonical_order(tensors):
        tensor = tensors[name]
        end = position + _bytes(tensor)
        table[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (position, end)}
        position = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the numbers are aligned in memory
    return len(text).to_bytes(8, "little") + text


def joined_digest(parts: Sequence[tuple[BinaryIO, Header]]) -> str:
    """Return the sha256 that the tensors of some files have in one canonical file, which nobody need write.

    Args:
        parts: open files and their headers; no name is in two of them.
    """
    places = {name: (file, header.start) for file, header in parts for name in header.tensors}
    tensors = {name: stored for _, header in parts for name, stored in header.tensors.items()}
    digest = hashlib.sha256(canonical_header(tensors))
    for name in _canonical_order(tensors):
        file, start = places[name]
        for piece in _pieces(file, start + tensors[name].begin, start + tensors[name].end):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterable[bytes]:
    file.seek(begin)
    for position in range(begin, end, _PIECE):
        yield file.read(min(_PIECE, end - position))
