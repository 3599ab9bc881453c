"""Weights cut into files below a given size, as the Hugging Face Hub has them: shards, and an index of what is where.

`model-00001-of-00003.safetensors` and so on, and `model.safetensors.index.json`:
`{"metadata": {"total_size", "sha256"}, "weight_map": {tensor: file}}`. `total_size` counts the tensors' bytes. `sha256`
is our addition: that of the one canonical file with the same tensors, so that weights are the same weights however
they are cut.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import CorruptError, UsageError
from zoo.files import is_digest
from zoo.header import Header, joined_digest, read_header, unique

if TYPE_CHECKING:
    import torch

__all__ = ["INDEX", "WEIGHTS", "Index", "cut", "cut_to_files", "is_weights", "read_index", "weight_files"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_SHARD = re.compile(r"model-([0-9]{5})-of-([0-9]{5})\.safetensors")
_MOST = 99_999
_DESCRIPTION = 200  # bytes that a tensor's type, shape and offsets take in a header, at most, beside its name


@dataclass(frozen=True)
class Index:
    """What `model.safetensors.index.json` says.

    Attributes:
        weight_map: name of a tensor -> the file it is in.
        total_size: bytes of all tensors.
        sha256: of the one canonical file with the same tensors.
    """

    weight_map: Mapping[str, str]
    total_size: int
    sha256: str

    def to_json(self) -> str:
        """Return the text of the file; `read_index` reads it."""
        metadata = {"sha256": self.sha256, "total_size": self.total_size}
        return json.dumps({"metadata": metadata, "weight_map": dict(sorted(self.weight_map.items()))}, indent=1) + "\n"

    def check(self, headers: Mapping[str, Header], where: str) -> None:
        """Raise `CorruptError` unless shards hold what this says: every tensor in its file, and nothing else.

        Args:
            headers: of the shards, or of those that are here.
            where: what to call the index.
        """
        for file, header in headers.items():
            said = {name for name, place in self.weight_map.items() if place == file}
            wrong = sorted(said ^ header.tensors.keys())
            if wrong:
                raise CorruptError(f"{where} is wrong about {file}: {wrong[0][:80]!r} is only in one of them")
        total = sum(t.end - t.begin for header in headers.values() for t in header.tensors.values())
        if len(headers) == len(set(self.weight_map.values())) and total != self.total_size:
            raise CorruptError(f"{where} says {self.total_size} bytes of tensors, the shards have {total}")


def is_weights(file: str) -> bool:
    """Say whether a file of this name holds weights, all of them or a shard; an index of shards does not."""
    return file == WEIGHTS or _SHARD.fullmatch(file) is not None


def weight_files(files: Iterable[str], where: str) -> tuple[str, ...]:
    """Return which of an entry's files hold its weights: one, or the shards in order.

    Raises:
        CorruptError: none do, a shard or the index is missing from the list, or there are both forms.
    """
    names = set(files)
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if not shards and INDEX not in names:
        if WEIGHTS not in names:
            raise CorruptError(f"{where} has no {WEIGHTS}, so it is no zoo entry")
        return (WEIGHTS,)
    if WEIGHTS in names:
        raise CorruptError(f"{where} has both {WEIGHTS} and shards of it")
    if INDEX not in names:
        raise CorruptError(f"{where} has shards, but no {INDEX}")
    if shards != [_shard(number, len(shards)) for number in range(1, len(shards) + 1)] or not shards:
        raise CorruptError(f"{where} does not have the shards that their names count")
    return tuple(shards)


def _shard(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def read_index(content: bytes, files: Sequence[str], where: str) -> Index:
    """Read `model.safetensors.index.json`; `where` names it in errors.

    Args:
        content: of the file.
        files: the shards there are; `weight_map` must use each of them and no other.
        where: what to call the file in errors.

    Raises:
        CorruptError: not an index, or not of these files.
    """
    try:
        table: dict[str, Any] = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
        weight_map, metadata = table["weight_map"], table["metadata"]
        total_size, sha256 = metadata["total_size"], metadata["sha256"]
        if type(total_size) is not int or not is_digest(sha256):
            raise ValueError("its metadata lacks a total_size, or the sha256 of the whole")
        if any(not isinstance(file, str) for file in weight_map.values()):
            raise ValueError("a file's name is not text")
        if set(weight_map.values()) != set(files):
            raise ValueError("its files are not the shards of this entry")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{where} is not the index of these shards: {error}") from error
    return Index(weight_map, total_size, sha256)


def cut(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Divide tensors into files below `limit` bytes, headers included: by name, each file as full as can be.

    Args:
        sizes: name -> bytes of the tensor.
        limit: bytes.

    Raises:
        UsageError: a tensor alone is too large.
    """
    files: list[list[str]] = [[]]
    fixed = room = limit - 100  # for what a header has besides tensors
    for name, size in sorted(sizes.items()):
        needed = size + len(json.dumps(name)) + _DESCRIPTION
        if needed >= fixed:
            raise UsageError(f"shards of {limit / 1e6:g} MB are too small for the tensor {name!r} of {size / 1e6:g} MB")
        if needed >= room:
            files.append([])
            room = fixed
        files[-1].append(name)
        room -= needed
    return files


def cut_to_files(tensors: "Mapping[str, torch.Tensor]", limit: int) -> dict[str, bytes]:
    """Return weights as shards below `limit` bytes and their index: file name -> content.

    Args:
        tensors: contiguous, on the CPU; stored as they are.
        limit: bytes that a shard stays below.

    Raises:
        UsageError: a tensor alone is too large, or there would be more shards than names for them.
    """
    from zoo.checkpoint import save_tensors  # noqa: PLC0415  # imports torch

    groups = cut({name: value.nbytes for name, value in tensors.items()}, limit)
    if len(groups) > _MOST:
        raise UsageError(f"shards of {limit / 1e6:g} MB are too small: there would be {len(groups):,}")
    files = {
        _shard(number, len(groups)): save_tensors({name: tensors[name] for name in group})
        for number, group in enumerate(groups, 1)
    }
    weight_map = {name: file for group, file in zip(groups, files, strict=True) for name in group}
    handles = [io.BytesIO(content) for content in files.values()]
    digest = joined_digest([(handle, read_header(handle, WEIGHTS)) for handle in handles])
    index = Index(weight_map, sum(value.nbytes for value in tensors.values()), digest)
    return files | {INDEX: index.to_json().encode()}
