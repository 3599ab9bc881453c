"""Entries whose weights are cut into shards: their identity, and indexes and shards that are wrong or not here."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.zoo.conftest import LIMIT, again, flip_bit, in_part, refresh_sums
from zoo.entry import INDEX, Entry
from zoo.errors import CorruptError, NotFoundError


def test_the_digest_is_that_of_the_one_file(make: Callable[..., Entry]) -> None:
    whole, cut = make("whole", torch.float16), make("cut", torch.float16, limit=LIMIT)
    assert whole.weights_digest == whole.sum_of("model.safetensors")
    assert cut.weights_digest == whole.weights_digest
    assert cut.weights_digest == hashlib.sha256((whole.folder / "model.safetensors").read_bytes()).hexdigest()
    assert make("finer", torch.float16, limit=LIMIT // 2).weights_digest == cut.weights_digest
    assert make("full", torch.float32).weights_digest != cut.weights_digest
    with pytest.raises(CorruptError, match=r"has no model\.safetensors"):
        cut.sum_of("model.safetensors")


def forge(entry: Entry, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    path = entry.folder / INDEX
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    refresh_sums(entry.folder)


@pytest.mark.usefixtures("hashed")
def test_an_index_cannot_pass_its_shards_off_as_other_weights(make: Callable[..., Entry]) -> None:
    entry = make("sample", torch.float16, limit=LIMIT)
    entry.load()  # the shards are on record
    forge(entry, lambda index: index["metadata"].update(sha256="0" * 64))
    assert again(entry).weights_digest == "0" * 64
    for use in (Entry.load, Entry.verify):
        with pytest.raises(CorruptError, match=f"{INDEX} states another sha256 of the weights than the shards"):
            use(again(entry))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["weight_map"].update(more="../model.safetensors"), "is not the index of these shards"),
        (lambda index: index["weight_map"].pop("head.weight"), "is wrong about"),
        (lambda index: index["metadata"].update(total_size=1), "says 1 bytes of tensors"),
    ],
)
def test_an_index_that_is_wrong(
    make: Callable[..., Entry], change: Callable[[dict[str, dict[str, object]]], object], message: str
) -> None:
    entry = make("sample", torch.float16, limit=LIMIT)
    forge(entry, change)
    for use in (Entry.load, Entry.verify):
        with pytest.raises(CorruptError, match=message):
            use(again(entry))


def test_shards_of_which_some_are_missing(make: Callable[..., Entry], zoo_home: Path) -> None:
    entry = in_part(make("sample", torch.float16, limit=LIMIT), zoo_home)
    for file in entry.weights:
        (entry.folder / file).unlink()
        part = again(entry)
        assert part.partial
        part.verify()
        assert part.weights_digest == entry.weights_digest
        with pytest.raises(NotFoundError, match="`zoo pull sample`"):
            part.load()
    (entry.folder / INDEX).unlink()
    assert not again(entry).partial
    with pytest.raises(CorruptError, match=f"{INDEX} cannot be read"):
        again(entry).verify()


def test_the_shards_that_are_here_are_verified(make: Callable[..., Entry], zoo_home: Path) -> None:
    entry = in_part(make("sample", torch.float16, limit=LIMIT), zoo_home)
    (entry.folder / entry.weights[0]).unlink()
    flip_bit(entry.folder / entry.weights[1], -3)
    with pytest.raises(CorruptError, match=f"{entry.weights[1]} is damaged"):
        again(entry).verify()
