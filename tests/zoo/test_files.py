"""Files and folders appear whole or not at all, and their sums are those of `sha256sum`."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import files_up_to
from tests.zoo.conftest import listing
from zoo.errors import CorruptError, StorageError
from zoo.files import (
    SUMS,
    atomic_write,
    check_writable,
    new_folder,
    parse_sums,
    sha256_file,
    storage_errors,
    warn_if_not_kept,
    write_sums,
)

OK = hashlib.sha256(b"").hexdigest()


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_atomic_write_writes_and_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first, and longer", b"second", b""):
        atomic_write(path, content)
        assert listing(tmp_path) == {"file": content}
    assert permissions(path) == 0o644


@pytest.mark.parametrize("existing", [None, b"old"])
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path, existing: bytes | None) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    before = listing(tmp_path)
    with files_up_to(5000), pytest.raises(StorageError, match=f"cannot write {path}: File too large"):
        atomic_write(path, b"x" * 5001)
    assert listing(tmp_path) == before
    with files_up_to(5000):
        atomic_write(path, b"x" * 5000)
    assert listing(tmp_path) == {"file": b"x" * 5000}


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt(handle)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/file", "folder"])
def test_atomic_write_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"cannot write {tmp_path / name}"):
        atomic_write(tmp_path / name, b"content")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_storage_errors_says_what_and_why(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="cannot write target: No such file or directory"),
        storage_errors(Path("target")),
    ):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(StorageError, match="cannot write target: refused"), storage_errors(Path("target")):
        raise OSError("refused")
    with pytest.raises(ValueError, match="mine"), storage_errors(Path("target")):
        raise ValueError("mine")


def test_new_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with new_folder(target) as folder:
        (folder / "a").write_bytes(b"1")
        assert not target.exists()
        assert folder.parent == target.parent, "a rename across file systems is a copy"
        assert folder.name.startswith("."), "a source lists what has no dot"
    assert listing(tmp_path) == {"deep/target/a": b"1"}
    assert permissions(target) == 0o755
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def fill(
    target: Path, contents: dict[str, bytes], *, replace: bool = False, error: BaseException | None = None
) -> None:
    with new_folder(target, replace=replace) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("replace", [False, True])
def test_an_error_inside_leaves_no_folder(tmp_path: Path, error: BaseException, replace: bool) -> None:
    target = tmp_path / "target"
    if replace:
        target.mkdir()
        (target / "old").write_bytes(b"old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(type(error)):
        fill(target, {"a": b"1"}, replace=replace, error=error)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    with files_up_to(5000), pytest.raises(StorageError, match="target: File too large"):
        fill(tmp_path / "target", {"small": b"x" * 100, "large": b"x" * 10_000})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with pytest.raises(StorageError, match="it exists already"), new_folder(target) as folder:
        (folder / "new").write_bytes(b"new")
    assert listing(tmp_path) == {"target/old": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_an_existing_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with new_folder(target, replace=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert listing(tmp_path) == {"target/new": b"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_is_replaced_and_what_it_points_at_is_kept(tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"1")
    target = tmp_path / "target"
    if kind == "file":
        target.write_bytes(b"old")
    else:
        target.symlink_to(elsewhere)
    with new_folder(target, replace=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert not target.is_symlink()
    assert listing(tmp_path) == {"elsewhere/precious": b"1", "target/new": b"new"}
    assert {p.name for p in tmp_path.iterdir()} == {"elsewhere", "target"}


@pytest.mark.parametrize("kind", ["folder", "file", "link", "link to nothing"])
@pytest.mark.parametrize("refused", [1, 2])
def test_what_cannot_be_replaced_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, refused: int
) -> None:
    target, renames, real = tmp_path / "target", list[Path](), Path.replace
    (tmp_path / "elsewhere").mkdir()
    if kind == "folder":
        target.mkdir()
        (target / "old").write_bytes(b"old")
    elif kind == "file":
        target.write_bytes(b"old")
    else:
        target.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nothing"))
    before = sorted(tmp_path.rglob("*")), listing(tmp_path)

    def busy(self: Path, to: Path) -> Path:
        renames.append(self)
        if len(renames) == refused:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(StorageError, match=f"^cannot write {target}: Device or resource busy$"):
        fill(target, {"a": b"1"}, replace=True)
    assert (sorted(tmp_path.rglob("*")), listing(tmp_path)) == before
    assert target.is_symlink() == kind.startswith("link")


def test_what_does_not_come_back_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real = tmp_path / "target", Path.replace
    target.mkdir()
    (target / "old").write_bytes(b"old")

    def away_only(self: Path, to: Path) -> Path:
        if self != target:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", away_only)
    with pytest.raises(StorageError, match="Device or resource busy"):
        fill(target, {"a": b"1"}, replace=True)
    assert list(listing(tmp_path).values()) == [b"old"]


def test_a_link_that_leads_nowhere_is_in_the_way(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.symlink_to(tmp_path / "nothing")
    with pytest.raises(StorageError, match="it exists already"):
        fill(target, {"a": b"1"})
    assert target.is_symlink()
    fill(target, {"a": b"1"}, replace=True)
    assert listing(tmp_path) == {"target/a": b"1"}


def test_no_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "target"
    with pytest.raises(StorageError, match=f"cannot write {target}"), new_folder(target):
        pass


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_sha256_file(tmp_path: Path, size: int) -> None:
    content = bytes(i * i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_sums_are_what_sha256sum_writes_and_checks(tmp_path: Path) -> None:
    contents = {"b.txt": b"bee", "a.txt": b"", "UPPER": b"\x00\xff"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / SUMS).write_text("of another time")
    write_sums(tmp_path)
    lines = [f"{hashlib.sha256(contents[name]).hexdigest()}  {name}" for name in sorted(contents)]
    assert (tmp_path / SUMS).read_text() == "\n".join(lines) + "\n"
    assert parse_sums((tmp_path / SUMS).read_bytes(), "here") == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "line",
    [
        "no sum at all",
        f"{OK} a",  # one space
        f"{OK}  ",
        f"{OK.upper()}  a",
        f"{OK[:-1]}  a",
        f"{OK}0  a",
        f"{'g' * 64}  a",
        f"{OK}  .",
        f"{OK}  ..",
        f"{OK}  ../a",
        f"{OK}  /etc/passwd",
        f"{OK}  sub/a",
        f"{OK}  {SUMS}",
        f"{OK}  a\0b",
        f"{OK}  a\x1b[31mb",
        f"{OK}  first",  # twice
        "",
    ],
)
def test_malformed_sums(line: str) -> None:
    with pytest.raises(CorruptError, match=r"^here is malformed at"):
        parse_sums(f"{OK}  first\n{line}\n{OK}  last\n".encode(), "here")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"x" * ((1 << 20) + 1)])
def test_sums_that_say_nothing(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^here .* nothing in (this entry|it) can be trusted"):
        parse_sums(content, "here")


def test_a_flipped_bit_in_the_sums_is_malformed_or_changes_one_thing() -> None:
    good = f"{OK}  a\n{OK}  b\n".encode()
    told = {"a": OK, "b": OK}
    malformed = 0
    for position in (i for i, c in enumerate(good) if c != ord("\n")):
        content = bytearray(good)
        content[position] ^= 1
        try:
            found = parse_sums(bytes(content), "here")
        except CorruptError:
            malformed += 1
        else:
            assert len(found.items() ^ told.items()) == 2, position
    assert malformed >= 6  # at least the separators


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    atomic_write(tmp_path / "link", b"there")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"there"


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "shelf")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    check_writable(tmp_path / "old")
    assert list((tmp_path / "old").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        check_writable(tmp_path / "file" / "shelf")


def test_a_cache_that_is_refused_is_a_warning_and_nothing_else_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "no" / "file"
    with warn_if_not_kept("the answer"):
        atomic_write(path, b"it")
    assert caplog.messages == [f"cannot write {path}: No such file or directory; the answer is not kept"]
    with pytest.raises(CorruptError), warn_if_not_kept("the answer"):
        raise CorruptError("x is damaged")
    assert len(caplog.messages) == 1
