"""Picture files of every kind, as a network of 32 x 32 pixels gets to see them."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from zoo.data import pictures
from zoo.data.pictures import read_picture
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError

Pixels = npt.NDArray[np.uint8]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height: int = 32, width: int = 32, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def quarters(size: int = 64) -> Image.Image:
    """Red and green above, blue and white below."""
    picture = Image.new("RGB", (size, size))
    for i, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        picture.paste(
            colour, (i % 2 * size // 2, i // 2 * size // 2, (i % 2 + 1) * size // 2, (i // 2 + 1) * size // 2)
        )
    return picture


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def corners(pixels: Pixels) -> list[tuple[int, ...]]:
    """Return the colours of the corners: above left, above right, below left, below right."""
    return [tuple(int(v) for v in pixels[y, x]) for y in (0, -1) for x in (0, -1)]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of some bytes that says it is so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_a_picture_of_the_size_passes_through(tmp_path: Path, suffix: str) -> None:
    pixels = noise()
    path = save(Image.fromarray(pixels), tmp_path / f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    got = read_picture(path, (32, 32))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, pixels)


def test_size_is_height_and_width(tmp_path: Path) -> None:
    pixels = noise(24, 40)
    path = save(Image.fromarray(pixels), tmp_path / "x.png")
    np.testing.assert_array_equal(read_picture(path, (24, 40)), pixels)
    assert read_picture(path, (40, 24)).shape == (40, 24, 3)


@pytest.mark.parametrize("shape", [(64, 64), (16, 16), (1, 1), (500, 333), (31, 33), (2, 900), (900, 2)])
def test_other_sizes_fit(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(Image.new("RGB", shape[::-1], (10, 200, 90)), tmp_path / "x.png")
    np.testing.assert_array_equal(read_picture(path, (32, 32)), np.broadcast_to((10, 200, 90), (32, 32, 3)))


def test_a_wide_picture_is_cropped_at_the_centre_not_squeezed(tmp_path: Path) -> None:
    picture = Image.new("RGB", (192, 64), RED)
    picture.paste(GREEN, (64, 0, 128, 64))
    got = read_picture(save(picture, tmp_path / "x.png"), (32, 32))
    np.testing.assert_array_equal(got[:, 2:-2], np.broadcast_to(GREEN, (32, 28, 3)))
    tall = read_picture(save(picture.transpose(Image.Transpose.ROTATE_90), tmp_path / "y.png"), (32, 32))
    np.testing.assert_array_equal(tall[2:-2], np.broadcast_to(GREEN, (28, 32, 3)))


def test_scaling_down_is_antialiased(tmp_path: Path) -> None:
    # Single-pixel stripes: taking every eighth pixel would give black or white, their mean is gray.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    got = read_picture(save(Image.fromarray(stripes), tmp_path / "x.png"), (32, 32))[4:-4, 4:-4]
    assert abs(got.astype(int) - 127.5).max() < 4


def test_scaling_down_against_torch(tmp_path: Path) -> None:
    import torch

    smooth = quarters(96).rotate(30).point(lambda value: 64 + value // 2)  # so that no overshoot is clipped
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(smooth)).permute(2, 0, 1)[None].float(), (32, 32), mode="bicubic", antialias=True
    )
    got = read_picture(save(smooth, tmp_path / "x.png"), (32, 32))
    assert np.abs(got - wanted[0].permute(1, 2, 0).clamp(0, 255).numpy()).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "order"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int, order: list[tuple[int, int, int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    choices: dict[str, dict[str, object]] = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    options = choices.get(suffix, {})
    got = read_picture(save(quarters(), tmp_path / f"x.{suffix}", exif=exif, **options), (32, 32))
    assert np.abs(np.array(corners(got)) - order).max() <= 3


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))])
def test_transparency_is_on_white(tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
    got = read_picture(save(Image.new(mode, (32, 32), colour), tmp_path / "x.png"), (32, 32))
    assert (got == 255).all()


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    rgba = noise(channels=4)
    alpha = rgba[..., 3:] / 255
    wanted = rgba[..., :3] * alpha + 255 * (1 - alpha)
    got = read_picture(save(Image.fromarray(rgba), tmp_path / "x.png"), (32, 32))
    assert abs(got - wanted).max() <= 1


def test_transparent_colour_of_a_palette(tmp_path: Path) -> None:
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (16, 0, 32, 32))
    got = read_picture(save(picture, tmp_path / "x.gif", transparency=0), (32, 32))
    assert corners(got) == [WHITE, BLUE, WHITE, BLUE]


def test_palette(tmp_path: Path) -> None:
    picture = quarters(32).quantize(4)
    assert picture.mode == "P"
    got = read_picture(save(picture, tmp_path / "x.png"), (32, 32))
    np.testing.assert_array_equal(got, np.asarray(quarters(32)))


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("L", "jpg"), ("1", "png"), ("1", "gif")])
def test_gray_and_black_and_white(tmp_path: Path, mode: str, suffix: str) -> None:
    gray = Image.fromarray(np.repeat(np.arange(0, 256, 8, dtype=np.uint8), 32).reshape(32, 32)).convert(mode)
    got = read_picture(save(gray, tmp_path / f"x.{suffix}"), (32, 32))
    assert (np.ptp(got, axis=2) == 0).all()
    assert abs(got[..., 0].astype(int) - np.asarray(gray.convert("L"), int)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    deep = np.repeat(np.arange(32, dtype=np.uint16) * 2048, 32).reshape(32, 32)
    got = read_picture(save(Image.fromarray(deep), tmp_path / f"x.{suffix}"), (32, 32))
    assert abs(got.astype(int) - (deep[..., None] / 65535 * 255)).max() <= 1


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(content)
    assert abs(read_picture(tmp_path / "x.png").astype(int) - deep / 257).max() <= 1


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)), tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff has floating-point pixels"):
        read_picture(path, (32, 32))


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    cmyk = Image.new("CMYK", (32, 32))
    for i, ink in enumerate([(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 0)]):  # as `quarters`
        cmyk.paste(ink, (i % 2 * 16, i // 2 * 16, (i % 2 + 1) * 16, (i // 2 + 1) * 16))
    got = read_picture(save(cmyk, tmp_path / f"x.{suffix}"), (32, 32))
    assert np.abs(np.array(corners(got)) - [RED, GREEN, BLUE, WHITE]).max() <= 3


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    path = save(frames[0], tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert corners(read_picture(path, (32, 32))) == [RED] * 4


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"x\.png' does not exist"):
        read_picture(tmp_path / "x.png", (32, 32))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x80\x04K\x01."])
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(path, (32, 32))


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path) -> None:
    path = save(quarters(), tmp_path / "x.eps")
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(path, (32, 32))


def test_a_decoder_that_fails_in_its_own_way_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow's AVIF decoder does on some damaged files."""

    def fail(image: Image.Image) -> None:
        raise RuntimeError(f"Failed to decode frame 0 of {image.size}")

    path = save(quarters(), tmp_path / "x.png")
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(path, (32, 32))


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(tmp_path, (32, 32))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(Image.fromarray(noise(50, 40)), tmp_path / f"x.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(path, (32, 32))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about EXIF and TIFF tags it skips
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff"])
def test_whatever_bit_flips_the_answer_is_an_error_of_ours_or_pixels(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(noise(20, 30)), tmp_path / f"x.{suffix}", **({} if suffix == "gif" else {"exif": exif}))
    content = path.read_bytes()
    rng, errors = np.random.default_rng(0), []
    for position in (*range(min(60, len(content))), *rng.choice(len(content), 60)):
        torn = bytearray(content)
        torn[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(torn)
        try:
            assert read_picture(path, (32, 32)).shape == (32, 32, 3)
        except MenagerieError as error:
            errors.append(str(error))
    assert errors
    assert all(str(path) in error for error in errors)


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (20_000, 20_000), (2_000_000_000, 2)])
def test_a_huge_picture_is_refused_before_it_is_unpacked(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_claiming(width, height))
    with pytest.raises(DataError, match="pixels"):
        read_picture(path, (32, 32))


def test_a_large_one_that_is_not_too_large_comes_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_claiming(9_500, 10_000))  # Pillow warns from 89 million pixels on; warnings are errors here
    with pytest.raises(CorruptError, match="not a readable picture"):
        read_picture(path, (32, 32))


@pytest.mark.parametrize("shape", [(20, 30), (1, 1), (64, 33)])
def test_without_a_size_a_picture_keeps_its_own(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    np.testing.assert_array_equal(read_picture(save(Image.fromarray(pixels), tmp_path / "x.png")), pixels)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_unpacked_smaller_and_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    y, x = np.mgrid[:900, :1200]
    waves = np.stack([np.sin(x / 37) + np.cos(y / 53), np.sin(y / 91), np.cos((x + y) / 29)], -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray((waves * 60 + 128).astype(np.uint8)), tmp_path / "x.jpg", quality=95, exif=exif)
    drafts: list[tuple[int, int]] = []
    fit = ImageOps.fit

    def spy(picture: Image.Image, *rest: Any) -> Image.Image:  # noqa: ANN401  # passed on
        drafts.append(picture.size)
        return fit(picture, *rest)

    monkeypatch.setattr("PIL.ImageOps.fit", spy)
    small = read_picture(path, (24, 48))
    monkeypatch.setattr(pictures, "_GAP", 10**6)
    whole = read_picture(path, (24, 48))
    assert drafts == ([(300, 225), (1200, 900)] if orientation == 1 else [(225, 300), (900, 1200)])
    assert abs(small.astype(int) - whole).max() <= 3
