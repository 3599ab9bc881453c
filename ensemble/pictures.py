"""Picture files as images of a network's size."""

import warnings
from pathlib import Path

import numpy as np

from zoo.data.split import Pixels
from zoo.errors import CorruptError, DataError, NotFoundError

__all__ = ["read_picture"]

_MOST_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program


def read_picture(path: Path, size: tuple[int, int]) -> Pixels:
    """Read a picture file and fit it to a network's input.

    The picture is turned as its EXIF orientation says, put on white where it is transparent, scaled (bicubic,
    antialiased) so that it covers `size`, and cropped at the centre. A picture of that size is left as it is.

    Args:
        path: PNG, JPEG, WebP, AVIF, GIF (its first frame), BMP, TIFF or PPM.
        size: (height, width) in pixels.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        NotFoundError: no such file.
        CorruptError: not a picture, or a truncated one.
        DataError: more than 100 million pixels.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from 89 million pixels on
            file = Image.open(path, formats=_FORMATS)
        with file:
            if file.width * file.height > _MOST_PIXELS:
                raise DataError(f"{path} has {file.width} x {file.height} pixels; at most {_MOST_PIXELS:,} are read")
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16-bit gray, which Pillow would clip at 255
                picture = Image.fromarray((np.asarray(picture, np.int64) >> 8).clip(0, 255).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            fitted = ImageOps.fit(picture.convert("RGB"), (size[1], size[0]), Image.Resampling.BICUBIC)
    except FileNotFoundError as error:
        raise NotFoundError(f"picture {str(path)!r} does not exist") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has more pixels than are read") from error
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise CorruptError(f"{str(path)!r} is not a readable picture") from error
    return np.asarray(fitted, np.uint8)
