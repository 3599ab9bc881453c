"""Thousands of hostile files: whoever writes an entry writes its sums as well, so every reader stands alone.

A reader gives what it was asked for, or one of the project's errors, in one line, in a moment, whatever the bytes are.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.zoo.conftest import file_entry, refresh_sums, sample_card, sample_predictions
from zoo import checkpoint
from zoo.archs import create
from zoo.card import Card
from zoo.cli.group import one_line
from zoo.entry import Entry
from zoo.errors import MenagerieError
from zoo.files import parse_sums
from zoo.predictions import Predictions
from zoo.shards import cut_to_files
from zoo.sources.folder import write_index
from zoo.sources.index import decode_index

NUMBERS = (-1, 0, 1, 2**31, 2**63, 2**64, 1e308, -1e308, float("nan"), float("inf"))
WORDS = ("", "..", "../x", "/etc/passwd", "\0", "x" * 5000, "F64", "I8", "a" * 40 + "\n")
TREES: tuple[object, ...] = ([], {}, [[]], {"": {}}, [-1], [2**62, 2**62], [0, 2**63], None, True)
NASTY = st.sampled_from((*NUMBERS, *WORDS, *TREES)).map(copy.deepcopy)
KEYS = st.sampled_from(("", "..", "../x", "__metadata__", "\0", "x" * 300, "model.safetensors"))


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401  # JSON
    """Return the paths of all nodes below a JSON value."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, child in children for found in ((*path, key), *nodes(child, (*path, key)))]


@st.composite
def changed_json(draw: st.DrawFn, text: bytes) -> bytes:
    """Draw the text of a JSON value with a few nodes replaced, deleted or renamed."""
    tree = copy.deepcopy(json.loads(text))
    for _ in range(draw(st.integers(1, 3))):
        places = nodes(tree)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        parent = tree
        for key in path:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "delete", "rename"]))
        if how == "replace" or isinstance(parent, list):
            parent[last] = draw(NASTY)
        else:
            value = parent.pop(last)
            if how == "rename":
                parent[draw(KEYS)] = value
    return json.dumps(tree).encode()


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw bytes with a few of them flipped, cut out, doubled, or replaced, mostly at the beginning."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        reach = draw(st.sampled_from([16, 200, len(out)]))
        at = draw(st.integers(0, max(min(reach, len(out)) - 1, 0)))
        length = draw(st.integers(0, 64))
        how = draw(st.sampled_from(["flip", "cut", "double", "replace", "end"]))
        if how == "flip" and out:
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del out[at : at + length]
        elif how == "double":
            out[at:at] = out[at : at + length]
        elif how == "replace":
            out[at : at + length] = draw(st.binary(max_size=64))
        else:
            del out[at:]
    return bytes(out)


@st.composite
def changed_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a safetensors file with another header, whose length may be right."""
    length = int.from_bytes(content[:8], "little")
    header = draw(changed_json(content[8 : 8 + length]))
    claimed = draw(st.sampled_from([len(header)] * 4 + [0, 1, len(header) + 1, 2**32, 2**63, 2**64 - 1]))
    return claimed.to_bytes(8, "little") + header + content[8 + length :]


def survives(read: Callable[[], object]) -> None:
    """Read: anything but an answer or an error of ours, printed in one line, within a second or so, is a defect."""
    began = time.process_time()
    try:
        read()
    except MenagerieError as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 10_000
    assert one_line(said).isprintable(), "as the command line prints it"
    assert time.process_time() - began < 3


fuzz = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def weights_of(net_width: int = 4) -> bytes:
    return checkpoint.encode(create("fastnet", 10, widths=(net_width,) * 3))


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    folder = tmp_path_factory.mktemp("zoo")
    arguments = {"widths": [4, 4, 4]}
    return file_entry(
        folder, "a-seed1", weights=weights_of(), predictions=sample_predictions(), architecture_args=arguments
    )


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    from zoo.entry import write_entry

    folder = tmp_path_factory.mktemp("zoo")
    net = create("fastnet", 10, widths=(4, 4, 4))
    card = sample_card("a-seed1", architecture_args={"widths": [4, 4, 4]})
    return write_entry(folder / "a-seed1", card, cut_to_files(net.state_dict(), 4000), sample_predictions())


def use(entry: Entry) -> None:
    """Do with an entry what commands do, each on its own."""
    fresh = Entry(entry.name, entry.folder, entry.source)
    for read in (lambda: fresh.card, fresh.verify, fresh.predictions, fresh.load, lambda: fresh.weights_digest):
        survives(read)


def try_file(entry: Entry, file: str, content: bytes) -> None:
    """Put another content in the place of a file, and its sum with it, and use the entry."""
    path = entry.folder / file
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        refresh_sums(entry.folder)
        use(entry)
    finally:
        path.write_bytes(before)
        refresh_sums(entry.folder)


FILES = ["config.json", "model.safetensors", "predictions.safetensors", "README.md"]


def test_what_is_not_changed_can_be_used(entry: Entry, sharded: Entry) -> None:
    for one in (entry, sharded):
        one.verify()
        assert isinstance(one.load(), nn.Module)
        assert one.predictions().splits
    assert len(sharded.weights) > 1


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@fuzz
def test_changed_bytes(entry: Entry, file: str, data: st.DataObject) -> None:
    try_file(entry, file, data.draw(changed_bytes((entry.folder / file).read_bytes())))


@pytest.mark.parametrize("file", ["model.safetensors", "predictions.safetensors"])
@given(data=st.data())
@fuzz
def test_changed_headers(entry: Entry, file: str, data: st.DataObject) -> None:
    try_file(entry, file, data.draw(changed_safetensors((entry.folder / file).read_bytes())))


@given(data=st.data())
@fuzz
def test_changed_cards(entry: Entry, data: st.DataObject) -> None:
    try_file(entry, "config.json", data.draw(changed_json((entry.folder / "config.json").read_bytes())))


@given(data=st.data())
@fuzz
def test_changed_indexes_of_shards(sharded: Entry, data: st.DataObject) -> None:
    file = "model.safetensors.index.json"
    content = (sharded.folder / file).read_bytes()
    try_file(sharded, file, data.draw(changed_json(content) | changed_bytes(content)))


@given(data=st.data())
@fuzz
def test_changed_shards(sharded: Entry, data: st.DataObject) -> None:
    file = sharded.weights[0]
    content = (sharded.folder / file).read_bytes()
    try_file(sharded, file, data.draw(changed_safetensors(content) | changed_bytes(content)))


@given(data=st.data())
@fuzz
def test_changed_sums(entry: Entry, data: st.DataObject) -> None:
    path = entry.folder / "SHA256SUMS"
    before = path.read_bytes()
    content = data.draw(changed_bytes(before) | st.binary(max_size=300))
    survives(lambda: parse_sums(content, "here"))
    try:
        path.write_bytes(content)
        use(entry)
    finally:
        path.write_bytes(before)


@given(data=st.data())
@fuzz
def test_changed_indexes_of_sources(entry: Entry, data: st.DataObject) -> None:
    write_index(entry.folder.parent)
    content = (entry.folder.parent / "index.json").read_bytes()
    changed = data.draw(changed_json(content) | changed_bytes(content))
    survives(lambda: decode_index(changed, "here"))


@given(content=st.binary(max_size=300) | st.text().map(str.encode))
@fuzz
def test_bytes_of_nothing(content: bytes) -> None:
    for read in (
        lambda: Card.from_json(content.decode("latin-1"), "here"),
        lambda: Predictions.decode(content, "here"),
        lambda: checkpoint.decode(content, "here"),
        lambda: parse_sums(content, "here"),
        lambda: decode_index(content, "here"),
    ):
        survives(read)


def test_a_header_of_terabytes_is_not_allocated(tmp_path: Path) -> None:
    big = {"t": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header = json.dumps(big).encode()
    entry = file_entry(tmp_path, "a-seed1", weights=len(header).to_bytes(8, "little") + header)
    with pytest.raises(MenagerieError):
        entry.verify()
    with pytest.raises(MenagerieError):
        entry.load()
