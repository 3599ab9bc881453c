"""Many picture files at once, against one after the other."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import pictures
from zoo.data.pictures import read_picture, read_pictures
from zoo.errors import CorruptError, DataError, NotFoundError


def many(folder: Path, count: int = 150, *, height: int = 6) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (height, 4, 3), np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("size", [None, (6, 4), (3, 5)])
@pytest.mark.parametrize("small", [0, 10**6])
@pytest.mark.parametrize("count", [1, 64, 150])
def test_many_are_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None, small: int, count: int
) -> None:
    monkeypatch.setattr(pictures, "_SMALL", small)  # several threads, or one
    paths = many(tmp_path, count)
    found = read_pictures(paths, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.stack([read_picture(path, size) for path in paths]))


def test_many_sizes_are_counted_and_an_option_is_named(tmp_path: Path) -> None:
    paths = many(tmp_path / "a", 100) + many(tmp_path / "b", 3, height=9) + many(tmp_path / "c", 2, height=2)
    turned = Image.Exif()
    turned[0x0112] = 6
    paths.append(tmp_path / "turned.png")
    Image.new("RGB", (6, 4)).save(paths[-1], exif=turned)  # 6 high and 4 wide when upright
    with pytest.raises(DataError, match=r"pictures of 3 sizes, from 2 x 4 to 9 x 4 pixels, such as .*: give --size N"):
        read_pictures(paths)
    assert read_pictures(paths, (4, 4)).shape == (106, 4, 4, 3)


@pytest.mark.parametrize("small", [0, 10**6])
def test_the_first_bad_file_of_many_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(pictures, "_SMALL", small)
    paths = many(tmp_path)
    for row in (149, 70, 71):
        paths[row].write_bytes(b"no picture")
    with pytest.raises(CorruptError, match=r"/70\.png' is not a readable picture"):
        read_pictures(paths)
    paths[70].unlink()
    with pytest.raises(NotFoundError, match=r"/70\.png' does not exist"):
        read_pictures(paths)


def test_more_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    paths = many(tmp_path, 2)
    monkeypatch.setattr("zoo.data.pictures.np.empty", full)
    with pytest.raises(DataError, match=r"2 pictures of 6 x 4 pixels do not fit into memory: give a smaller --size"):
        read_pictures(paths)


def test_warnings_of_decoders_are_not_shown_and_others_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = many(tmp_path, 70)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6 * 4 - 1)  # Pillow warns of more, and twice as many are an error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_pictures(paths)) == 70
        with pytest.raises(Image.DecompressionBombWarning), Image.open(paths[0]):
            pass
        with pytest.raises(UserWarning, match="still heard"):
            warnings.warn("still heard", stacklevel=1)
