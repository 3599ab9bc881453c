"""Prediction files of other people's models: `probs` or `logits` `[N, C]` and `labels` `[N]`, as .npz or .safetensors.

Rows follow the split's own order (torchvision's for CIFAR).
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo.checkpoint import check_format
from zoo.data import Split
from zoo.errors import CorruptError, DataError

__all__ = ["Arrays", "read_prediction_file"]

Arrays = dict[str, npt.NDArray[np.generic]]
_BAD_ZIP = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_TINY = 1e-12
_SUM_TOLERANCE = 1e-2  # fp16 probabilities of 100 classes


def read_prediction_file(path: Path, split: Split) -> npt.NDArray[np.float32]:
    """Return a file's log-probabilities or logits on a split, float32 `[N, C]`, rows as `Split.order` has them.

    Raises:
        CorruptError: the file is no .npz or .safetensors file of plain arrays.
        DataError: a wrong shape, NaN, probabilities that do not sum to 1, or labels of other images.
    """
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    kinds = [key for key in ("probs", "logits") if key in arrays]
    if len(kinds) != 1 or "labels" not in arrays:
        raise DataError(
            f"{path} has {', '.join(sorted(arrays)) or 'nothing'}; it needs labels, and either probs or logits"
        )
    values, labels = arrays[kinds[0]], arrays["labels"]
    shape = (len(split), len(split.classes))
    if values.shape != shape or values.dtype.kind != "f":
        raise DataError(
            f"{path}: {kinds[0]} is {values.dtype} {list(values.shape)}, the split needs floats {list(shape)}"
        )
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels is {labels.dtype} {list(labels.shape)}, the split needs integers {list(shape[:1])}"
        )
    wrong = int((labels != split.labels).sum())
    if wrong:
        raise DataError(
            f"{path}: {wrong} of {len(split)} labels differ from the split's: these are other images or another order"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
        numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: {kinds[0]} has values that are not finite, the first in row {_first_bad(numbers)}")
    if kinds[0] == "probs":
        if (numbers < 0).any() or (np.abs(numbers.sum(1) - 1) > _SUM_TOLERANCE).any():
            raise DataError(f"{path}: probs has rows that are negative or do not sum to 1")
        numbers = np.log(np.maximum(numbers, _TINY))
    return numbers[split.order]


def _first_bad(numbers: npt.NDArray[np.float32]) -> int:
    return int(np.flatnonzero(~np.isfinite(numbers).all(1))[0])


def _read_npz(path: Path) -> Arrays:
    try:
        # Opened here, since numpy leaves a file that it cannot read open.
        with path.open("rb") as content:
            file = np.load(content, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a bare array")  # noqa: TRY004  # as any other error of a bad file
            return {name: np.asarray(file[name]) for name in file.files}
    except _BAD_ZIP as error:
        raise CorruptError(f"{path} is not an .npz file of plain arrays (pickles are never loaded)") from error


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    content = path.read_bytes()
    check_format(content, str(path))
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} is not a readable safetensors file: {error}") from error
