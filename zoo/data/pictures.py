"""Picture files as arrays: one decoder for what people classify, what is sent, and what networks are trained on."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.split import Pixels
from zoo.errors import CorruptError, DataError, NotFoundError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["decode_picture", "read_picture", "read_pictures"]

_MOST_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program
_GAP = 3
"""A JPEG file may be unpacked at 1/2, 1/4 or 1/8 of its size as long as that is this many times the size asked for."""
_CHUNK = 64
_SMALL, _MOST_THREADS = 8192, 16


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Pixels:
    """Read a picture file, as large as it is or fitted to a network's input.

    The picture is turned as its EXIF orientation says, put on white where it is transparent, scaled (bicubic,
    antialiased) so that it covers `size`, and cropped at the centre. A picture of that size is left as it is.

    Args:
        path: PNG, JPEG, WebP, AVIF, GIF (its first frame), BMP, TIFF or PPM; gray, colour, palette or CMYK, of 8 or 16
            bits.
        size: (height, width) in pixels; without it, the picture keeps its own.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        NotFoundError: no such file.
        CorruptError: not a picture, or a truncated one.
        DataError: more than 100 million pixels, or pixels that are floating-point numbers.
    """
    with _no_warnings():
        return _decode(path, size)


def decode_picture(
    content: bytes,
    size: tuple[int, int] | None = None,
    *,
    formats: tuple[str, ...] = _FORMATS,
    most_pixels: int = _MOST_PIXELS,
    name: str = "the picture",
) -> Pixels:
    """Decode the bytes of a picture file, as `read_picture` does.

    Decoders may warn; silence that for all threads at once.

    Args:
        content: of the file.
        size: (height, width) in pixels; without it, the picture keeps its own.
        formats: as Pillow calls them, of those of `read_picture`; another one is not a readable picture.
        most_pixels: a picture with more is refused before it is unpacked.
        name: what errors call it.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        CorruptError, DataError: as in `read_picture`.
    """
    return _decode(io.BytesIO(content), size, name=name, formats=formats, most=most_pixels)


def read_pictures(paths: Sequence[Path], size: tuple[int, int] | None = None) -> Pixels:
    """Read many picture files, several at once.

    Args:
        paths: at least one.
        size: as in `read_picture`; without it, the pictures must all have the same.

    Returns:
        uint8 `[N, H, W, 3]`, RGB, in the order of `paths`.

    Raises:
        DataError: pictures of several sizes and no `size`, or more of them than the memory holds.
        CorruptError, NotFoundError: as in `read_picture`, for the first such file.
    """
    first = read_picture(paths[0], size)
    try:
        out = np.empty((len(paths), *first.shape), np.uint8)
    except MemoryError as error:
        height, width = first.shape[:2]
        raise DataError(
            f"{len(paths):,} pictures of {height} x {width} pixels do not fit into memory: give a smaller --size"
        ) from error

    def fill(start: int) -> bool:
        """Decode a chunk of files; say whether their sizes are the first one's."""
        for row in range(start, min(start + _CHUNK, len(paths))):
            pixels = _decode(paths[row], size)
            if pixels.shape != first.shape:
                return False
            out[row] = pixels
        return True

    # Pillow unpacks in parallel, but of a small file most of the time is Python's, where threads only wait for another.
    threads = 1 if paths[0].stat().st_size < _SMALL else min(os.cpu_count() or 1, _MOST_THREADS)
    # Warnings are silenced once for all threads: doing so in each would mix up their filters.
    with _no_warnings(), ThreadPoolExecutor(threads) as pool:
        if not all(pool.map(fill, range(0, len(paths), _CHUNK))):
            pool.shutdown(cancel_futures=True)
            sizes = sorted({_size(path) for path in paths}, key=lambda hw: (hw[0] * hw[1], hw))
            (h0, w0), (h1, w1) = sizes[0], sizes[-1]
            raise DataError(
                f"pictures of {len(sizes)} sizes, from {h0} x {w0} to {h1} x {w1} pixels, such as {paths[0]}: "
                "give --size N to scale and crop them to one"
            )
    return out


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence decoders: what they warn of (odd metadata, from 89 million pixels on size) is decoded or an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(
    source: Path | io.BytesIO, name: str = "", formats: tuple[str, ...] = _FORMATS, most: int = _MOST_PIXELS
) -> Iterator["Picture"]:
    """Yield an open picture whose pixels are not unpacked yet; whatever goes wrong inside is an error of ours."""
    from PIL import Image  # noqa: PLC0415  # keeps `zoo --help` quick

    called, quoted = (name, name) if name else (str(source), repr(str(source)))
    try:
        with Image.open(source, formats=formats) as file:
            if file.width * file.height > most:
                raise DataError(f"{called} has {file.width} x {file.height} pixels; at most {most:,} are read")
            yield file
    except FileNotFoundError as error:
        raise NotFoundError(f"picture {quoted} does not exist") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{called} has more pixels than are read") from error
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise CorruptError(f"{quoted} is not a readable picture") from error


def _decode(
    source: Path | io.BytesIO,
    size: tuple[int, int] | None,
    *,
    name: str = "",
    formats: tuple[str, ...] = _FORMATS,
    most: int = _MOST_PIXELS,
) -> Pixels:
    """Do what `read_picture` and `decode_picture` say."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    with _opened(source, name, formats, most) as file:
        if size is not None:
            # Both sides by the longer one: EXIF may turn the picture.
            file.draft(None, (_GAP * max(size), _GAP * max(size)))
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):  # 16-bit gray, which Pillow would clip at 255
            picture = Image.fromarray((np.asarray(picture, np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if picture.mode == "F":
            raise DataError(
                f"{name or source} has floating-point pixels, whose range is not known: save it with 8 or 16 bits"
            )
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
        if size is not None:
            picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BICUBIC)
        return np.asarray(picture, np.uint8)


def _size(path: Path) -> tuple[int, int]:
    """Return the height and width of a picture after it is turned, from the head of the file alone."""
    turned = range(5, 9)  # EXIF orientations that swap the sides
    with _opened(path) as file:
        swap = file.getexif().get(0x0112) in turned
        return (file.width, file.height) if swap else (file.height, file.width)
