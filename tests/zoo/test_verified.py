"""The record of verified files: nothing is trusted that changed in any way that shows, and no record is an error."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import files_up_to
from zoo.verified import Mark, forget, look, recall, remember

DIGEST, WEIGHTS = "ab" * 32, "cd" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file, which has not changed for a while as far as the clock of these tests goes."""
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "file").write_bytes(b"bytes")
    return tmp_path / "entry"


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be ten seconds later than it is."""
    now = time.time_ns
    monkeypatch.setattr("zoo.verified.time.time_ns", lambda: now() + 10 * 10**9)


def mark(folder: Path) -> Mark:
    return Mark(DIGEST, look((folder / "file").stat()))


def record(home: Path) -> Path:
    (path,) = (home / "verified").iterdir()
    return path


def test_what_is_remembered_is_recalled(folder: Path, zoo_home: Path) -> None:
    assert recall(folder, WEIGHTS) == {}
    remember(folder, WEIGHTS, {"file": mark(folder)})
    assert recall(folder, WEIGHTS) == {"file": mark(folder)}
    assert record(zoo_home).stat().st_size < 1000
    assert recall(folder, DIGEST) == {}, "of other weights"
    assert recall(folder.parent, WEIGHTS) == {}


def test_a_folder_has_one_record_however_it_is_reached(folder: Path, tmp_path: Path) -> None:
    remember(folder, WEIGHTS, {"file": mark(folder)})
    (tmp_path / "link").symlink_to(folder)
    for other in (tmp_path / "link", folder / ".." / "entry"):
        assert recall(other, WEIGHTS) == {"file": mark(folder)}


def test_a_record_replaces_the_one_before(folder: Path, zoo_home: Path) -> None:
    remember(folder, WEIGHTS, {"file": mark(folder), "other": mark(folder)})
    remember(folder, DIGEST, {"file": mark(folder)})
    assert recall(folder, DIGEST) == {"file": mark(folder)}
    assert recall(folder, WEIGHTS) == {}
    assert record(zoo_home).is_file()


def test_forgetting(folder: Path) -> None:
    forget(folder)
    remember(folder, WEIGHTS, {"file": mark(folder)})
    forget(folder)
    assert recall(folder, WEIGHTS) == {}


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def longer(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"bytes!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another(path: Path) -> None:
    before = path.stat()
    path.with_name("new").write_bytes(b"BYTES")
    path.with_name("new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written_into_and_set_back(path: Path) -> None:
    before = path.stat()
    time.sleep(0.02)  # the kernel's clock ticks every few milliseconds
    path.write_bytes(b"BYTES")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [touched, longer, another, written_into_and_set_back])
def test_every_change_shows(folder: Path, change: Callable[[Path], None]) -> None:
    before = look((folder / "file").stat())
    assert look((folder / "file").stat()) == before
    change(folder / "file")
    assert look((folder / "file").stat()) != before


def test_a_new_file_of_the_same_size_and_time_is_told_by_its_inode(folder: Path) -> None:
    before = look((folder / "file").stat())
    another(folder / "file")
    after = look((folder / "file").stat())
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after.inode != before.inode


def test_a_file_that_has_just_changed_is_not_recorded(
    folder: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    monkeypatch.setattr("zoo.verified.time.time_ns", lambda: now)
    old = Mark(DIGEST, look((folder / "file").stat())._replace(mtime_ns=now - 10**10, ctime_ns=now - 10**10))
    for field in ("mtime_ns", "ctime_ns"):
        for age in (10**9, -(10**12)):  # a second ago; by a clock that is ahead of ours
            fresh = old._replace(look=old.look._replace(**{field: now - age}))
            remember(folder, WEIGHTS, {"file": old, "other": fresh})
            assert not (zoo_home / "verified").exists()
    remember(folder, WEIGHTS, {"file": old})
    assert recall(folder, WEIGHTS) == {"file": old}


def test_damaged_records_are_no_records(folder: Path, zoo_home: Path) -> None:
    remember(folder, WEIGHTS, {"file": mark(folder)})
    path = record(zoo_home)
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        for content in (good[:position], good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]):
            path.write_bytes(content)
            found = recall(folder, WEIGHTS)
            assert all(len(m.sha256) == 64 for m in found.values())
    path.write_bytes(b"[" * 100_000)
    assert recall(folder, WEIGHTS) == {}
    path.write_bytes(good + b" " * 2**20)
    assert recall(folder, WEIGHTS) == {}, "too long to be read"
    path.unlink()
    path.mkdir()
    assert recall(folder, WEIGHTS) == {}


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {"file": []},
        {"file": None},
        {"file": [DIGEST, 1, 2, 3]},
        {"file": [DIGEST, 1, 2, 3, 4, 5]},
        {"file": [DIGEST, 1, 2, 3, "4"]},
        {"file": [DIGEST, 1, 2, 3, 4.0]},
        {"file": ["ab", 1, 2, 3, 4]},
        {"file": [None, 1, 2, 3, 4]},
    ],
)
def test_a_record_of_another_shape(folder: Path, zoo_home: Path, files: object) -> None:
    remember(folder, WEIGHTS, {"file": mark(folder)})
    table = json.loads(record(zoo_home).read_text())
    record(zoo_home).write_text(json.dumps(table | {"files": files}))
    assert recall(folder, WEIGHTS) == {}
    record(zoo_home).write_text(json.dumps(table | {"format": "menagerie.verified/2"}))
    assert recall(folder, WEIGHTS) == {}


def test_a_home_that_cannot_be_written_to(folder: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo_home.parent.mkdir(exist_ok=True)
    zoo_home.write_bytes(b"a file where the folder should be")
    remember(folder, WEIGHTS, {"file": mark(folder)})
    assert recall(folder, WEIGHTS) == {}
    forget(folder)
    monkeypatch.setenv("ZOO_HOME", str(zoo_home.with_name("other")))
    with files_up_to(10):
        remember(folder, WEIGHTS, {"file": mark(folder)})
    assert recall(folder, WEIGHTS) == {}
    assert list((zoo_home.with_name("other") / "verified").iterdir()) == []
