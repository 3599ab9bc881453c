"""A folder as a source and as a target."""

import hashlib
import threading
from pathlib import Path

import pytest

from tests.conftest import files_up_to
from tests.zoo.conftest import file_entry, flip_bit, listing
from zoo.errors import CorruptError, NotFoundError, StorageError
from zoo.sources.folder import FolderSource, FolderTransport, write_index
from zoo.sources.index import decode_index, indexed


def test_a_folder_lists_its_entries(tmp_path: Path) -> None:
    assert FolderSource(tmp_path / "missing").names() == []
    for name in ("b", "a"):
        file_entry(tmp_path, name)
    (tmp_path / "no-entry").mkdir()
    (tmp_path / ".a.work").mkdir()
    (tmp_path / ".a.work" / "SHA256SUMS").touch()
    source = FolderSource(tmp_path)
    assert (source.names(), source.label) == (["a", "b"], str(tmp_path))
    assert source.get("c") is None


def test_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"12345")
    transport = FolderTransport(tmp_path)
    assert transport.read("sub/file", 5) == b"12345"
    assert transport.read("sub/none", 5) is None
    with pytest.raises(CorruptError, match="has 5 bytes, where at most 4 are sensible"):
        transport.read("sub/file", 4)
    with pytest.raises(CorruptError, match="sub"):
        transport.read("sub", 5)
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "file")
    with pytest.raises(CorruptError, match="is a symbolic link"):
        transport.read("link", 5)


def test_fetch(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    part, seen = tmp_path / "part", list[int]()
    digest = FolderTransport(tmp_path).fetch("file", len(content), part, seen.append)
    assert digest == hashlib.sha256(content).hexdigest()
    assert part.read_bytes() == content
    assert sum(seen) == len(content)
    assert len(seen) > 1


@pytest.mark.parametrize("size", [0, 99, 101])
def test_fetch_of_another_size_leaves_nothing(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with pytest.raises(CorruptError, match=rf"file does not have the {size} bytes"):
        FolderTransport(tmp_path).fetch("file", size, tmp_path / "part", lambda _: None)
    assert not (tmp_path / "part").exists()


def test_fetch_of_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="file does not exist"):
        FolderTransport(tmp_path).fetch("file", 1, tmp_path / "part", lambda _: None)


def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(20_000))
    with files_up_to(10_000), pytest.raises(StorageError, match=r"cannot write .*part: File too large"):
        FolderTransport(tmp_path).fetch("file", 20_000, tmp_path / "part", lambda _: None)
    assert not (tmp_path / "part").exists()


def test_publish_writes_folders_whole(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"weights")
    target = FolderTransport(tmp_path / "zoo")
    target.publish({"a/config.json": b"1", "a/weights": tmp_path / "big", "index.json": b"2"}, "Add a")
    assert listing(tmp_path / "zoo") == {"a/config.json": b"1", "a/weights": b"weights", "index.json": b"2"}
    target.publish({"a/config.json": b"3"}, "Replace a")
    assert listing(tmp_path / "zoo") == {"a/config.json": b"3", "index.json": b"2"}


def test_one_publisher_at_a_time(tmp_path: Path) -> None:
    inside, order = threading.Event(), list[str]()

    def second() -> None:
        inside.wait(10)
        with FolderTransport(tmp_path / "zoo").exclusively():
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with FolderTransport(tmp_path / "zoo").exclusively():
        inside.set()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_write_index(tmp_path: Path) -> None:
    entries = [file_entry(tmp_path, name) for name in ("b", "a")]
    assert write_index(tmp_path) == ({e.name: indexed(e, e.name) for e in entries}, {})
    found = decode_index((tmp_path / "index.json").read_bytes(), "here")
    assert found == {e.name: indexed(e, e.name) for e in entries}


def test_an_index_leaves_out_what_is_damaged(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        file_entry(tmp_path, name)
    (tmp_path / "a" / "model.safetensors").unlink()
    flip_bit(tmp_path / "b" / "config.json", 9)
    found, wrong = write_index(tmp_path)
    assert list(found) == ["c"]
    assert "model.safetensors cannot be read" in wrong["a"]
    assert "config.json is damaged" in wrong["b"]
    assert list(decode_index((tmp_path / "index.json").read_bytes(), "here")) == ["c"]


def test_nothing_is_written_through_links_of_others(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    victim = tmp_path / "victim"
    for begun in (True, False):
        if begun:
            victim.write_text("mine")
        else:
            victim.unlink()
            (tmp_path / "zoo" / "index.json").unlink()
        (tmp_path / "zoo" / "index.json").symlink_to(victim)
        with pytest.raises(StorageError, match=r"index\.json: it is a symbolic link"):
            write_index(tmp_path / "zoo")
        assert victim.exists() is begun
    assert not victim.exists()


def test_a_cache_has_no_folders_but_entries(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert FolderSource(tmp_path).names() == []
    own = FolderSource(tmp_path, own=True)
    assert own.names() == ["a"]
    entry = own.get("a")
    assert entry
    with pytest.raises(CorruptError, match="SHA256SUMS cannot be read"):
        entry.verify()
    assert own.get("b") is None
