"""The training curve that an entry may carry: `metrics.csv`, a row for each epoch, as run folders have it."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from zoo.errors import CorruptError

__all__ = ["METRICS", "decode_metrics", "encode_metrics"]

METRICS = "metrics.csv"
"""Name of the file. Its columns: `epoch`, and any of `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`, ..."""

_MOST_BYTES = 16 << 20


def encode_metrics(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Return the bytes of `metrics.csv`.

    Args:
        rows: one for each epoch, all with the same columns; at least one.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def decode_metrics(content: bytes, where: str) -> list[dict[str, float]]:
    """Return the rows of `metrics.csv`; a value that is not finite is NaN. `where` names the file in errors.

    Raises:
        CorruptError: not a table of numbers with a column `epoch`.
    """
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError("too long")
        header, *lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        if "epoch" not in header or len(set(header)) != len(header):
            raise ValueError("no columns of their own")
        rows = [dict(zip(header, map(float, line), strict=True)) for line in lines]
    except (ValueError, csv.Error) as error:
        raise CorruptError(f"{where} is not the training curve of an entry") from error
    return [{key: value if math.isfinite(value) else math.nan for key, value in row.items()} for row in rows]
