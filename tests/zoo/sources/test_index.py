"""The index of a source: what it says, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.conftest import file_entry
from zoo.errors import CorruptError
from zoo.sources.index import Indexed, decode_index, encode_index, indexed


@pytest.fixture
def index(tmp_path: Path) -> dict[str, Indexed]:
    entries = [
        file_entry(tmp_path, "a-seed1", metrics={"test": {"flip": 0.9375}}, parameters=12, multiply_adds=345),
        file_entry(tmp_path, "b-seed1", architecture="resnet20"),
    ]
    return {e.name: indexed(e, e.name) for e in entries}


def test_what_it_says_of_an_entry(index: dict[str, Indexed], tmp_path: Path) -> None:
    about = index["a-seed1"]
    assert about.files == {p.name: p.stat().st_size for p in (tmp_path / "a-seed1").iterdir() if p.name != "SHA256SUMS"}
    assert about.sums == hashlib.sha256((tmp_path / "a-seed1" / "SHA256SUMS").read_bytes()).hexdigest()
    said = about.listed
    assert (said.accuracy, said.parameters, said.multiply_adds, said.dataset) == (0.9375, 12, 345, "cifar10")
    assert said.bytes == sum(about.files.values())
    assert index["b-seed1"].listed.accuracy is None


def test_there_and_back(index: dict[str, Indexed]) -> None:
    content = encode_index(index)
    assert decode_index(content, "here") == index
    assert encode_index(dict(reversed(index.items()))) == content, "equal indexes are equal bytes"


def test_an_entry_that_lacks_a_file_has_no_place_in_it(tmp_path: Path) -> None:
    entry = file_entry(tmp_path, "a-seed1")
    (entry.folder / "model.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"model\.safetensors cannot be read: No such file"):
        indexed(entry, "a-seed1")


WRONG: dict[str, Any] = {
    "name": ["b-seed1", 3, None],
    "path": ["../a-seed1", "/a-seed1", "other", 3, None],
    "sums": ["", "0" * 63, "g" * 64, 3, None, "0" * 64 + "\n"],
    "files": [[], {"../x": 1}, {"a/b": 1}, {"SHA256SUMS": 1}, {"x": -1}, {"x": 1.5}, {"x": True}, {"x": 1 << 60}, None],
    "accuracy": ["0.9", 1.5, -0.1, float("nan"), True],
    "parameters": [-1, "12", 1.5, None],
    "architecture": [None, 3],
    "bytes": [None, -3],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_what_is_refused(index: dict[str, Indexed], key: str, value: object) -> None:
    table = json.loads(encode_index(index))
    table["entries"]["a-seed1"][key] = value
    with pytest.raises(CorruptError, match=r"^the index\.json of here is malformed: "):
        decode_index(json.dumps(table).encode(), "here")


@pytest.mark.parametrize("key", ["path", "sums", "files", "accuracy", "name", "bytes"])
def test_what_is_missing(index: dict[str, Indexed], key: str) -> None:
    table = json.loads(encode_index(index))
    del table["entries"]["a-seed1"][key]
    with pytest.raises(CorruptError, match=f"is malformed: '{key}'"):
        decode_index(json.dumps(table).encode(), "here")


@pytest.mark.parametrize("name", ["../a", "A", "", "a/b", ".a"])
def test_names_are_names(index: dict[str, Indexed], name: str) -> None:
    table = json.loads(encode_index(index))
    table["entries"][name] = {**table["entries"]["a-seed1"], "name": name, "path": name}
    with pytest.raises(CorruptError, match="not a valid entry name"):
        decode_index(json.dumps(table).encode(), "here")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"format": 3}'])
def test_what_is_no_index(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^the index\.json of here is not the index of a zoo$"):
        decode_index(content, "here")


def test_other_formats() -> None:
    with pytest.raises(CorruptError, match=r"has the format 'menagerie\.index/9', this version reads"):
        decode_index(b'{"format": "menagerie.index/9", "entries": {}}', "here")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(JSON)
def test_whatever_json_has_is_refused_or_read(value: object) -> None:
    whole = {"format": "menagerie.index/1", "entries": value}
    for table in (value, whole, {**whole, "entries": {"a": value}}):
        if table == {**whole, "entries": {}}:
            assert decode_index(json.dumps(table).encode(), "here") == {}
        else:
            with pytest.raises(CorruptError):
                decode_index(json.dumps(table).encode(), "here")
