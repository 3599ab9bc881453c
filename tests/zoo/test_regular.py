"""Only regular files are opened, and small ones are bounded."""

import os
from pathlib import Path

import pytest

from zoo.errors import CorruptError
from zoo.regular import open_regular, read_regular


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    with open_regular(path) as file:
        assert file.read() == b"bytes"
    assert read_regular(path) == read_regular(path, 5) == b"bytes"
    hard = tmp_path / "hard"
    hard.hardlink_to(path)  # one more name of a regular file
    assert read_regular(hard) == b"bytes"


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: no machine could hold it
    with pytest.raises(CorruptError, match=f"{path} has 1,099,511,627,776 bytes, where at most 1,048,576 are sensible"):
        read_regular(path, 2**20)


@pytest.mark.parametrize("target", ["file", "missing", "folder", "link"])
def test_links_are_refused_wherever_they_point(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "link"
    path.symlink_to(tmp_path / target)
    with pytest.raises(CorruptError, match=f"{path} is a symbolic link"):
        read_regular(path)


def test_a_link_that_appears_after_the_check_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "file")
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)
    with pytest.raises(CorruptError, match=f"{path} cannot be read"):
        read_regular(path)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it for reading would wait for a writer
    for path in (tmp_path, pipe, Path(os.devnull)):
        with pytest.raises(CorruptError, match=f"{path} is no regular file"):
            open_regular(path)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"missing cannot be read: No such file"):
        read_regular(tmp_path / "missing")
