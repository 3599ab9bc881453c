"""Weights in another form: other numbers, other files. What changes no value changes nothing that was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zoo.card import Card
from zoo.checkpoint import build, cast, decode, save_tensors
from zoo.entry import WEIGHTS, Entry
from zoo.errors import DataError
from zoo.shards import cut_to_files, is_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["DTYPES", "SHARD_SIZE", "Converted", "Dtype", "convert", "convert_card"]

Dtype = Literal["fp32", "fp16", "bf16"]

DTYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Name on the command line -> name in torch."""

SHARD_SIZE = 48_000_000
"""Bytes that a shard stays below unless somebody says otherwise."""


@dataclass(frozen=True)
class Converted:
    """Weights in their new form.

    Attributes:
        files: file name -> content, as `write_entry` takes them.
        lossless: whether every value is the same in fp32, which is what networks run in, so that the entry's
            predictions are those of these weights as well.
        before: the types of the floating-point numbers so far, e.g. `fp16`, or `fp16+fp32`.
        after: likewise, of the new ones.
    """

    files: Mapping[str, bytes]
    lossless: bool
    before: str
    after: str

    def network(self, card: Card) -> "nn.Module":
        """Return the network of a card with these weights, as they will be read; errors as in `checkpoint.build`."""
        tensors: dict[str, torch.Tensor] = {}
        for file in filter(is_weights, self.files):
            tensors |= decode(self.files[file], file)
        return build(card, tensors, "the converted weights")

    def __str__(self) -> str:
        size = sum(map(len, self.files.values())) / 1e6
        count = sum(map(is_weights, self.files))
        return f"{self.before} -> {self.after}, {size:.1f} MB in {count} file{'s' if count > 1 else ''}"


def convert(entry: Entry, dtype: Dtype | None = None, limit: int | None = None) -> Converted:
    """Return an entry's weights in another form; nothing is written.

    Args:
        entry: whose weights are here.
        dtype: of floating-point numbers; None keeps theirs.
        limit: bytes that each shard stays below; None makes one file.

    Raises:
        DataError: a number is too large for `dtype`.
        UsageError: a tensor is too large for shards below `limit`.
        NotFoundError, CorruptError: as in `Entry.tensors`.
    """
    import torch  # noqa: PLC0415  # keeps `zoo convert --help` free of torch

    old = entry.tensors()
    new = cast(old, getattr(torch, DTYPES[dtype]) if dtype else None)
    for name, value in new.items():
        if value.is_floating_point() and not value.isfinite().all() and old[name].isfinite().all():
            largest = old[name].abs().max().item()
            raise DataError(f"{entry.name!r} has numbers up to {largest:g} in {name!r}, which {dtype} cannot hold")
    return Converted(
        files={WEIGHTS: save_tensors(new)} if limit is None else cut_to_files(new, limit),
        lossless=all(torch.equal(_in_use(value), _in_use(old[name])) for name, value in new.items()),
        before=_types(old),
        after=_types(new),
    )


def _in_use(value: "torch.Tensor") -> "torch.Tensor":
    """Return a tensor as a network has it."""
    return value.float() if value.is_floating_point() else value


def _types(tensors: "Mapping[str, torch.Tensor]") -> str:
    """Return the types of the floating-point tensors, for people."""
    short = {f"torch.{name}": dtype for dtype, name in DTYPES.items()}
    found = {str(value.dtype) for value in tensors.values() if value.is_floating_point()}
    return "+".join(sorted(short.get(dtype, dtype.removeprefix("torch.")) for dtype in found))


def convert_card(
    entry: Entry, name: str, *, lossless: bool, metrics: Mapping[str, Mapping[str, float]] | None = None
) -> Card:
    """Return the card of converted weights, which says what they were converted from.

    Args:
        entry: the one that was converted.
        name: of the new entry.
        lossless: whether every value is the same; then what was measured holds.
        metrics: measured with the new weights, if they were.
    """
    card = entry.card
    origin = f"{entry.name}@{entry.weights_digest[:16]}"
    return replace(
        card,
        name=name,
        metrics=card.metrics if lossless else metrics or {},
        training={**card.training, "converted_from": origin},
    )
