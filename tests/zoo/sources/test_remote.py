"""Entries behind a transport: what is checked, and what a request costs."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.zoo.conftest import file_entry, flip_bit, refresh_sums
from tests.zoo.far import Counting, far
from zoo.errors import CorruptError, NotFoundError, SourceError, UsageError
from zoo.sources.folder import write_index


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    for name in ("a-seed1", "b-seed1"):
        file_entry(folder, name, metrics={"test": {"flip": 0.9}})
    write_index(folder)
    return folder


def test_a_list_is_one_request(zoo: Path) -> None:
    transport = Counting(zoo)
    source = far(transport)
    assert source.names() == ["a-seed1", "b-seed1"]
    entries = [source.get(name) for name in source.names()]
    rows = [entry.row() for entry in entries if entry]
    assert [(row.name, row.source, row.where) for row in rows] == [
        (name, "far://away", f"far://away/{name}") for name in ("a-seed1", "b-seed1")
    ]
    assert all(row.listed and row.listed.accuracy == 0.9 for row in rows)
    assert source.get("c-seed1") is None
    assert transport.asked == ["index.json"]


def test_a_card_is_two_more(zoo: Path) -> None:
    transport = Counting(zoo)
    entry = far(transport).get("a-seed1")
    assert entry
    assert entry.card.name == entry.card.name == "a-seed1"
    assert transport.asked == ["index.json", "a-seed1/SHA256SUMS", "a-seed1/config.json"]


def test_names_are_checked(zoo: Path) -> None:
    with pytest.raises(UsageError, match="not a valid entry name"):
        far(Counting(zoo)).get("../a-seed1")


def test_a_source_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"^far://away has no index\.json: is it a zoo\?"):
        far(Counting(tmp_path)).names()


def test_other_sums_than_the_index_names(zoo: Path) -> None:
    (zoo / "a-seed1" / "note").write_text("new")
    refresh_sums(zoo / "a-seed1")
    entry = far(Counting(zoo)).get("a-seed1")
    assert entry
    with pytest.raises(CorruptError, match=r"SHA256SUMS of far://away is not the one that its index\.json names"):
        _ = entry.sums


def test_other_files_than_the_sums(zoo: Path) -> None:
    table = json.loads((zoo / "index.json").read_text())
    table["entries"]["a-seed1"]["files"]["more"] = 3
    (zoo / "index.json").write_text(json.dumps(table))
    entry = far(Counting(zoo)).get("a-seed1")
    assert entry
    with pytest.raises(CorruptError, match=r"the index\.json of far://away has other files of 'a-seed1'"):
        _ = entry.sums


def test_a_damaged_card(zoo: Path) -> None:
    flip_bit(zoo / "a-seed1" / "config.json", 30)
    entry = far(Counting(zoo)).get("a-seed1")
    assert entry
    with pytest.raises(CorruptError, match=r"a-seed1/config\.json of far://away is damaged"):
        _ = entry.card


def test_somebody_elses_card(zoo: Path) -> None:
    (zoo / "a-seed1" / "config.json").write_bytes((zoo / "b-seed1" / "config.json").read_bytes())
    refresh_sums(zoo / "a-seed1")
    table = json.loads((zoo / "index.json").read_text())
    write = table["entries"]["a-seed1"]
    write["sums"] = hashlib.sha256((zoo / "a-seed1" / "SHA256SUMS").read_bytes()).hexdigest()
    (zoo / "index.json").write_text(json.dumps(table))
    entry = far(Counting(zoo)).get("a-seed1")
    assert entry
    with pytest.raises(CorruptError, match="is the card of 'b-seed1', not of 'a-seed1'"):
        _ = entry.card


@pytest.mark.parametrize("file", ["SHA256SUMS", "config.json"])
def test_what_is_listed_but_gone(zoo: Path, file: str) -> None:
    (zoo / "a-seed1" / file).unlink()
    entry = far(Counting(zoo)).get("a-seed1")
    assert entry
    with pytest.raises(SourceError, match=f"far://away lists 'a-seed1' but has no a-seed1/{file}"):
        _ = entry.card
    with pytest.raises(NotFoundError if file == "config.json" else SourceError):
        entry.read("nothing")
