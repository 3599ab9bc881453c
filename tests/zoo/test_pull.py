"""Pulling: what breaks off goes on, what is damaged is not kept, what is there in part is completed."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.zoo.conftest import file_entry, flip_bit, listing, refresh_sums, sample_predictions
from tests.zoo.far import Counting, Flaky, far
from zoo.entry import Entry
from zoo.errors import CorruptError, NotFoundError, SourceError, UsageError
from zoo.origins import read_origin
from zoo.pull import missing_bytes, pull_entry, recover, resumed_bytes
from zoo.sources.folder import write_index
from zoo.sources.remote import RemoteEntry
from zoo.sources.transport import Transport

BIG = save({"head.weight": np.arange(5000, dtype=np.float16)}, metadata={"format": "pt"})


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    file_entry(folder, "a-seed1", weights=BIG, predictions=sample_predictions())
    write_index(folder)
    return folder


def remote(transport: Transport, name: str = "a-seed1") -> RemoteEntry:
    entry = far(transport).get(name)
    assert entry
    return entry


def test_a_pull_brings_everything_once(zoo: Path, zoo_home: Path) -> None:
    transport, seen = Counting(zoo), list[int]()
    offered = remote(transport)
    assert missing_bytes(offered) == offered.size
    entry = pull_entry(offered, progress=seen.append)
    assert entry == Entry("a-seed1", zoo_home / "entries" / "a-seed1", "cache")
    assert listing(entry.folder) == listing(zoo / "a-seed1")
    assert sum(seen) == offered.size
    files = [f"a-seed1/{file}" for file in offered.sums]
    assert sorted(transport.asked) == sorted(["index.json", "a-seed1/SHA256SUMS", *files])
    note = read_origin("a-seed1")
    assert note
    assert (note.source, note.sums, note.share) == ("far://away", entry.publication, "all")
    assert missing_bytes(offered) == 0
    asked = len(transport.asked)
    pull_entry(offered)
    assert len(transport.asked) == asked, "what is there is not fetched again"


def test_predictions_only_and_then_the_rest(zoo: Path) -> None:
    transport = Counting(zoo)
    offered = remote(transport)
    entry = pull_entry(offered, "predictions")
    assert entry.missing == ("model.safetensors",)
    assert entry.predictions().splits.keys() == {"val", "test"}
    assert "a-seed1/model.safetensors" not in transport.asked
    assert missing_bytes(offered, "predictions") == 0
    assert missing_bytes(offered) == len(BIG)
    with pytest.raises(NotFoundError, match="the weights of 'a-seed1' are not here, only its predictions: `zoo pull"):
        entry.load()
    before = len(transport.asked)
    whole = pull_entry(remote(transport))
    assert whole.missing == ()
    assert listing(whole.folder) == listing(zoo / "a-seed1")
    assert transport.asked[before:] == ["index.json", "a-seed1/SHA256SUMS", "a-seed1/model.safetensors"]


def test_what_broke_off_goes_on(zoo: Path, zoo_home: Path) -> None:
    transport = Flaky(zoo, 4000)
    for _ in range(2):
        with pytest.raises(SourceError, match="broke off"):
            pull_entry(remote(transport))
        assert listing(zoo_home / "entries") == {}, "nothing half-pulled is ever an entry"
    entry = pull_entry(remote(transport))
    assert transport.sent == entry.size, "no byte was sent twice"
    assert listing(entry.folder) == listing(zoo / "a-seed1")
    assert listing(zoo_home / "incoming") == {}


@pytest.mark.parametrize("file", ["model.safetensors", "predictions.safetensors", "config.json", "README.md"])
def test_damage_at_the_source_is_never_kept(zoo: Path, zoo_home: Path, file: str) -> None:
    flip_bit(zoo / "a-seed1" / file, 40)
    with pytest.raises(CorruptError, match=rf"{file} of 'a-seed1' from far://away is damaged: its sha256"):
        pull_entry(remote(Counting(zoo)))
    assert listing(zoo_home / "entries") == {}
    assert not list((zoo_home / "incoming").rglob(f"{file}.*"))
    flip_bit(zoo / "a-seed1" / file, 40)
    pull_entry(remote(Counting(zoo))).verify()


def test_a_rest_that_is_damaged_is_fetched_anew(zoo: Path, zoo_home: Path) -> None:
    offered = remote(Flaky(zoo, 1 << 20))
    rest = zoo_home / "incoming" / "a-seed1" / f"model.safetensors.{offered.sums['model.safetensors'][:16]}"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(BIG[:99] + b"damaged")

    class Hashing(Flaky):
        def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
            super().fetch(path, size, part, progress)
            return hashlib.sha256(part.read_bytes()).hexdigest()

    entry = pull_entry(remote(Hashing(zoo, 1 << 20)))
    assert listing(entry.folder) == listing(zoo / "a-seed1")


def test_another_entry_of_the_name(zoo: Path, zoo_home: Path) -> None:
    mine = file_entry(zoo_home / "entries", "a-seed1", recipe="mine")
    before = listing(mine.folder)
    for use in (missing_bytes, pull_entry):
        with pytest.raises(UsageError, match=r"^'a-seed1' exists already in .*other content \(--replace"):
            use(remote(Counting(zoo)))
    assert listing(mine.folder) == before
    offered = remote(Counting(zoo))
    assert missing_bytes(offered, replace=True) == offered.size
    assert listing(pull_entry(offered, replace=True).folder) == listing(zoo / "a-seed1")
    assert [p.name for p in (zoo_home / "entries").iterdir()] == ["a-seed1"]


def test_an_entry_of_no_form_is_not_filed(tmp_path: Path, zoo_home: Path) -> None:
    file_entry(tmp_path / "zoo", "a-seed1", weights=b"\x80\x04 a pickle, say")
    write_index(tmp_path / "zoo")
    with pytest.raises(CorruptError, match="is a pickle"):
        pull_entry(remote(Counting(tmp_path / "zoo")))
    assert listing(zoo_home / "entries") == {}


def test_two_files_of_the_same_bytes(zoo: Path) -> None:
    entry = file_entry(zoo, "b-seed1")
    for name in ("one", "two"):
        (entry.folder / name).write_text("same")
    refresh_sums(entry.folder)
    write_index(zoo)
    assert listing(pull_entry(remote(Counting(zoo), "b-seed1")).folder) == listing(entry.folder)


def test_what_is_there_of_a_broken_pull(zoo: Path) -> None:
    offered = remote(Flaky(zoo, 4000))
    assert resumed_bytes(offered) == 0
    with pytest.raises(SourceError):
        pull_entry(offered)
    assert resumed_bytes(offered) > 0
    assert resumed_bytes(offered, "predictions") <= resumed_bytes(offered)


def test_what_a_killed_replacement_moved_away_comes_back(zoo: Path, zoo_home: Path) -> None:
    entry = pull_entry(remote(Counting(zoo)))
    before = listing(entry.folder)
    old = zoo_home / "incoming" / "a-seed1" / "old"
    old.parent.mkdir(parents=True)
    entry.folder.rename(old)  # and then the process died
    recover()
    assert listing(entry.folder) == before
    assert not old.exists()
    shutil.copytree(entry.folder, old)  # it died one step later
    recover()
    assert old.exists(), "nothing takes the place of what is there"
    assert listing(pull_entry(remote(Counting(zoo)), replace=True).folder) == before


def test_what_was_trained_here_is_not_what_was_pulled(zoo: Path, zoo_home: Path) -> None:
    pull_entry(remote(Counting(zoo)), "predictions")
    shutil.rmtree(zoo_home / "entries" / "a-seed1")
    mine = file_entry(zoo_home / "entries", "a-seed1", predictions=sample_predictions(), recipe="mine")
    assert read_origin("a-seed1") is None
    (mine.folder / "model.safetensors").unlink()
    assert not mine.partial, "its weights were not left out, they are gone"
    with pytest.raises(CorruptError, match=r"model\.safetensors cannot be read"):
        mine.verify()
