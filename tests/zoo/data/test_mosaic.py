"""Mosaics that Pillow wrote, and files that are none."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import random_split
from tests.zoo.conftest import flip_bit, write_mosaic
from zoo.data import Split
from zoo.data.mosaic import INDEX, read_index, read_mosaic
from zoo.errors import CorruptError, NotFoundError

SPLIT = random_split(230, size=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mosaic(tmp_path / "mosaic", {"test": SPLIT})


def edit_index(folder: Path, **changes: Any) -> None:  # noqa: ANN401  # fields of the split's entry
    index = json.loads((folder / "index.json").read_text())
    entry = index["splits"]["test"]
    index["splits"]["test"] = {k: v for k, v in (entry | changes).items() if v is not None}
    (folder / "index.json").write_text(json.dumps(index))


def webp(sheet: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", lossless=True, method=0)
    return file.getvalue()


@pytest.mark.parametrize("count", [1, 99, 100, 101, 230])
def test_round_trip(tmp_path: Path, count: int) -> None:
    given = SPLIT.subset(slice(count))
    found = read_mosaic(write_mosaic(tmp_path, {"part": given}), "part")
    assert np.array_equal(found.images, given.images)
    assert np.array_equal(found.labels, given.labels)
    assert found.labels.dtype == np.int64
    assert found.classes == given.classes
    assert found.images.flags.c_contiguous


def test_image_i_lies_at_row_i_div_100_and_column_i_mod_100(folder: Path) -> None:
    found = read_mosaic(folder, "test").images
    with Image.open(folder / "test.webp") as sheet:
        for i in (0, 1, 99, 100, 157, 229):
            left, top = i % 100 * 4, i // 100 * 4
            assert np.array_equal(np.asarray(sheet.crop((left, top, left + 4, top + 4))), found[i])


def test_the_index(folder: Path) -> None:
    index = read_index(folder)
    assert index == json.loads((folder / INDEX).read_text())
    assert tuple(index["classes"]) == SPLIT.classes


def test_sums_may_be_left_out_of_the_index(folder: Path) -> None:
    edit_index(folder, pixels_sha256=None, labels_sha256=None)
    assert np.array_equal(read_mosaic(folder, "test").images, SPLIT.images)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"classes":' * 100_000,
        '{"classes": ["a", "b"]}',
        '{"classes": 5, "splits": {}}',
        '{"classes": "ab", "splits": {}}',
        '{"classes": ["a", 1], "splits": {}}',
        '{"classes": ["a"], "splits": []}',
        '{"classes": ["a"], "splits": {"test": 5}}',
        '{"classes": ["a"], "splits": {"test": {}}}',
        '{"classes": ["a"], "splits": {"test": {"images": 0}}}',
        '{"classes": ["a"], "splits": {"test": {"images": -5}}}',
        '{"classes": ["a"], "splits": {"test": {"images": "many"}}}',
        '{"classes": ["a"], "splits": {"test": {"images": 1e999}}}',
        '{"classes": ["a"], "splits": {"test": {"images": NaN}}}',
    ],
    ids=lambda text: text[:60],
)
def test_malformed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    for read in (lambda: read_index(tmp_path), lambda: read_mosaic(tmp_path, "test")):
        with pytest.raises(CorruptError, match=r"index\.json is not a mosaic index"):
            read()


def test_an_index_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CorruptError):
        read_index(tmp_path)


def test_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"cannot read .*nowhere/index\.json: No such file"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="has no split 'train', only test"):
        read_mosaic(folder, "train")
    (folder / "test.labels").unlink()
    with pytest.raises(NotFoundError, match=r"cannot read .*test\.labels: No such file"):
        read_mosaic(folder, "test")
    (folder / "test.webp").unlink()
    with pytest.raises(NotFoundError, match=r"test\.webp does not exist"):
        read_mosaic(folder, "test")


def test_any_flipped_bit_is_found(folder: Path) -> None:
    harmless = 0
    for name, step in (("test.webp", 97), ("test.labels", 23)):
        path = folder / name
        good = path.read_bytes()
        for position in range(0, len(good), step):
            flip_bit(path, position, position % 8)
            try:
                found = read_mosaic(folder, "test")
            except CorruptError:
                pass
            else:  # a bit of the container that no pixel depends on
                assert np.array_equal(found.images, SPLIT.images)
                assert np.array_equal(found.labels, SPLIT.labels)
                assert name == "test.webp"
                harmless += 1
            path.write_bytes(good)
    assert harmless < 5


def test_truncated_pixels(folder: Path) -> None:
    path = folder / "test.webp"
    good = path.read_bytes()
    for end in range(0, len(good), 150):
        path.write_bytes(good[:end])
        with pytest.raises(CorruptError):
            read_mosaic(folder, "test")


def test_sums_are_held_to_the_content(folder: Path) -> None:
    for what in ("pixels", "labels"):
        sums = json.loads((folder / "index.json").read_text())["splits"]["test"]
        edit_index(folder, **{f"{what}_sha256": hashlib.sha256(b"").hexdigest()})
        with pytest.raises(CorruptError, match=f"test: the {what} do not match the sha256 in index.json"):
            read_mosaic(folder, "test")
        edit_index(folder, **sums)
    read_mosaic(folder, "test")


def test_labels_that_do_not_fit(folder: Path) -> None:
    edit_index(folder, labels_sha256=None)
    for labels, message in (
        (bytes(229), "labels of type"),
        (bytes(231), "labels of type"),
        (b"\x0a" * 230, "must lie in"),
    ):
        (folder / "test.labels").write_bytes(labels)
        with pytest.raises(CorruptError, match=message):
            read_mosaic(folder, "test")


@pytest.mark.parametrize("shape", [(12, 396), (11, 400), (12, 50), (8, 400), (12, 404)])
def test_a_sheet_of_another_shape(folder: Path, shape: tuple[int, int]) -> None:
    edit_index(folder, pixels_sha256=None)
    (folder / "test.webp").write_bytes(webp(np.zeros((*shape, 3), np.uint8)))
    with pytest.raises(CorruptError, match=f"is {shape[1]} x {shape[0]} pixels, which does not hold 230 images"):
        read_mosaic(folder, "test")


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF", "text", "empty"])
def test_another_kind_of_file(folder: Path, kind: str) -> None:
    file = io.BytesIO(b"" if kind == "empty" else b"not an image")
    if kind in {"PNG", "PPM", "TIFF"}:
        Image.fromarray(np.zeros((12, 400, 3), np.uint8)).save(file, kind)
    (folder / "test.webp").write_bytes(file.getvalue())
    with pytest.raises(CorruptError, match=r"test\.webp is not a readable image"):
        read_mosaic(folder, "test")


def test_a_picture_too_large_to_unpack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 400 // 2 - 1)
    with pytest.raises(CorruptError, match=r"test\.webp is not a readable image"):
        read_mosaic(folder, "test")


def test_a_grey_sheet_is_read_as_colour(folder: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (12, 400), np.uint8)
    edit_index(folder, pixels_sha256=None)
    (folder / "test.webp").write_bytes(webp(grey))
    found = read_mosaic(folder, "test")
    assert isinstance(found, Split)
    assert np.array_equal(found.images[101], grey[4:8, 4:8, None].repeat(3, -1))
