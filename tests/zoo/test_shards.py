"""Shards: below their size, whole, read by the Hub's own client, and of the same identity as one file."""

import hashlib
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import load_torch_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from zoo.archs import create
from zoo.errors import CorruptError, UsageError
from zoo.header import read_header
from zoo.shards import INDEX, WEIGHTS, cut, cut_to_files, is_weights, read_index, weight_files

TENSORS = {f"layer{n}.weight": torch.arange(200.0 * n, 200.0 * (n + 1)).half() for n in range(9)}
LIMIT = 1700


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return cut_to_files(TENSORS, LIMIT)


@given(sizes=st.dictionaries(st.text(max_size=5), st.integers(0, 5000), max_size=20), limit=st.integers(5400, 20_000))
def test_every_tensor_is_in_one_file_and_no_file_could_take_the_next_one(sizes: dict[str, int], limit: int) -> None:
    groups = cut(sizes, limit)
    assert [name for group in groups for name in group] == sorted(sizes)
    assert all(groups) or groups == [[]]
    for group, following in pairwise(groups):
        together = sum(sizes[name] for name in group)
        assert together < limit
        assert together + sizes[following[0]] > limit - 300 * (len(group) + 2), "with 300 bytes for each description"


def test_the_files_are_below_the_limit_and_hold_everything(files: dict[str, bytes]) -> None:
    shards = [f"model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
    assert list(files) == [*shards, INDEX]
    assert all(len(files[shard]) < LIMIT for shard in shards)
    together = {name: value for shard in shards for name, value in load(files[shard]).items()}
    assert together.keys() == TENSORS.keys()
    assert all(torch.equal(together[name], value) for name, value in TENSORS.items())


def test_what_the_index_says(files: dict[str, bytes]) -> None:
    index = json.loads(files[INDEX])
    assert index["metadata"] == {
        "sha256": hashlib.sha256(save(TENSORS, metadata={"format": "pt"})).hexdigest(),
        "total_size": 9 * 200 * 2,
    }
    assert index["weight_map"] == {name: shard for shard in files if shard != INDEX for name in load(files[shard])}


def test_the_hubs_client_loads_them(tmp_path: Path) -> None:
    net, twin = (create("fastnet", 10, widths=[8, 8, 8]) for _ in range(2))
    for file, content in cut_to_files(net.state_dict(), 8000).items():
        (tmp_path / file).write_bytes(content)
    assert len(list(tmp_path.iterdir())) > 3
    load_torch_model(twin, tmp_path, strict=True)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())


def test_one_shard_is_a_shard_too() -> None:
    files = cut_to_files(TENSORS, 10**6)
    assert list(files) == ["model-00001-of-00001.safetensors", INDEX]
    assert weight_files(files, "here") == ("model-00001-of-00001.safetensors",)


def test_a_tensor_larger_than_a_shard() -> None:
    with pytest.raises(
        UsageError, match=r"shards of 0\.0005 MB are too small for the tensor 'layer0.weight' of 0.0004"
    ):
        cut_to_files(TENSORS, 500)


def test_which_files_are_weights(files: dict[str, bytes]) -> None:
    assert weight_files(["README.md", *reversed(files)], "here") == tuple(files)[:-1]
    assert weight_files(["README.md", WEIGHTS], "here") == (WEIGHTS,)
    assert [name for name in (*files, WEIGHTS, "model.pt", "model-1-of-2.safetensors") if is_weights(name)] == [
        *[name for name in files if name != INDEX],
        WEIGHTS,
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], "has no model.safetensors, so it is no zoo entry"),
        ([WEIGHTS, INDEX], "has both"),
        ([WEIGHTS, "model-00001-of-00001.safetensors"], "has both"),
        (["model-00001-of-00001.safetensors"], f"has shards, but no {INDEX}"),
        ([INDEX], "does not have the shards"),
        ([INDEX, "model-00002-of-00002.safetensors"], "does not have the shards"),
        ([INDEX, "model-00000-of-00001.safetensors"], "does not have the shards"),
        ([INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"], "does not have the shards"),
    ],
)
def test_weights_that_are_not_whole(names: list[str], message: str) -> None:
    with pytest.raises(CorruptError, match=f"^here {message}"):
        weight_files(names, "here")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["weight_map"].update(more="../../etc/passwd"),
        lambda index: index["weight_map"].update(more="model-00006-of-00006.safetensors"),
        lambda index: index["weight_map"].update(more=1),
        lambda index: index["weight_map"].update(more=["model-00001-of-00005.safetensors"]),
        lambda index: index.update(weight_map=[]),
        lambda index: index.update(weight_map={"a": "model-00001-of-00005.safetensors"}),
        lambda index: index.pop("weight_map"),
        lambda index: index.pop("metadata"),
        lambda index: index.update(metadata=None),
        lambda index: index["metadata"].pop("sha256"),
        lambda index: index["metadata"].update(sha256="ab"),
        lambda index: index["metadata"].update(total_size=3600.0),
    ],
)
def test_an_index_that_is_none(files: dict[str, bytes], change: Change) -> None:
    index = json.loads(files[INDEX])
    change(index)
    with pytest.raises(CorruptError, match=r"^here is not the index of these shards: \S"):
        read_index(json.dumps(index).encode(), list(files)[:-1], "here")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"1",
        b"[" * 100_000,
        b'{"a": 1, "a": 1}',
        b'{"metadata": {}, "weight_map": {"x": "a", "x": "b"}}',
    ],
)
def test_bytes_that_are_no_index(content: bytes) -> None:
    with pytest.raises(CorruptError, match="here is not the index"):
        read_index(content, [], "here")


def moved(index: dict[str, Any]) -> None:
    index["weight_map"]["layer0.weight"] = "model-00002-of-00005.safetensors"


def invented(index: dict[str, Any]) -> None:
    index["weight_map"]["more"] = "model-00001-of-00005.safetensors"


def left_out(index: dict[str, Any]) -> None:
    del index["weight_map"]["layer0.weight"]


def resized(index: dict[str, Any]) -> None:
    index["metadata"]["total_size"] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved, r"wrong about model-00001-of-00005\.safetensors: 'layer0\.weight' is only in one of them"),
        (invented, r"wrong about model-00001-of-00005\.safetensors: 'more'"),
        (left_out, r"wrong about model-00001-of-00005\.safetensors: 'layer0\.weight'"),
        (resized, "says 3601 bytes of tensors, the shards have 3600"),
    ],
)
def test_an_index_that_is_wrong(files: dict[str, bytes], change: Change, message: str) -> None:
    table = json.loads(files[INDEX])
    shards = list(files)[:-1]
    headers = {shard: read_header(io.BytesIO(files[shard]), shard) for shard in shards}
    read_index(files[INDEX], shards, "here").check(headers, "here")
    change(table)
    with pytest.raises(CorruptError, match=f"here .*{message}"):
        read_index(json.dumps(table).encode(), shards, "here").check(headers, "here")


def test_a_tensor_in_two_shards(files: dict[str, bytes]) -> None:
    shards = list(files)[:-1]
    headers = {shard: read_header(io.BytesIO(files[shard]), shard) for shard in shards}
    headers[shards[1]] = headers[shards[0]]
    with pytest.raises(CorruptError, match="is only in one of them"):
        read_index(files[INDEX], shards, "here").check(headers, "here")
