"""Answers of the Open Inference Protocol's `infer`, as JSON and as binary tensors."""

import json
import math
import struct
from typing import Any

import numpy as np

from export.runtime.answer import Answer, Floats
from export.serve.inference import Wanted
from export.serve.interface import PROBS, VERSION, Interface

__all__ = ["render_inference"]


def render_inference(
    answer: Answer, outputs: tuple[Wanted, ...], interface: Interface, *, name: str, request_id: str | None
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and how many bytes of it are JSON if binary tensors follow.

    What a cascade did not compute (a member that it did not ask) is NaN in binary tensors and null in JSON.

    Args:
        answer: of N images.
        outputs: that were asked for.
        interface: of the model.
        name: of the model.
        request_id: of the request, if it had one.
    """
    tables, tensors = [], []
    for wanted in outputs:
        values = answer.probs if wanted.name == PROBS else answer.member_probs
        assert values is not None  # noqa: S101  # such an output is refused where requests are read
        table: dict[str, Any] = {"name": wanted.name}
        if wanted.top:
            lines = _classify(values, wanted.top, interface.classes)
            table |= {"datatype": "BYTES", "shape": [*values.shape[:-1], wanted.top]}
            data: list[Any] = lines
            raw = b"".join(map(_bytes, lines)) if wanted.binary else b""
        else:
            table |= {"datatype": "FP32", "shape": list(values.shape)}
            data = [] if wanted.binary else _numbers(values)
            raw = values.astype("<f4", copy=False).tobytes()
        if wanted.binary:
            table["parameters"] = {"binary_data_size": len(raw)}
            tensors.append(raw)
        else:
            table["data"] = data
        tables.append(table)
    head: dict[str, Any] = {"model_name": name, "model_version": VERSION}
    if request_id is not None:
        head["id"] = request_id
    text = json.dumps({**head, "outputs": tables}, separators=(",", ":")).encode()
    return b"".join([text, *tensors]), len(text) if tensors else None


def _numbers(values: Floats) -> list[float | None]:
    """Return numbers as JSON has them, row by row, and null for NaN."""
    numbers: list[float] = values.ravel().tolist()
    return [None if math.isnan(number) else number for number in numbers]


def _classify(values: Floats, top: int, classes: tuple[str, ...]) -> list[str]:
    """Return the largest of each row as `VALUE:INDEX:CLASS`, ties by index."""
    rows = values.reshape(-1, values.shape[-1])
    order = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    return [f"{row[c]:f}:{c}:{classes[c]}" for row, best in zip(rows, order, strict=True) for c in best.tolist()]


def _bytes(text: str) -> bytes:
    """Return text as an element of a binary tensor of BYTES."""
    content = text.encode()
    return struct.pack("<I", len(content)) + content
