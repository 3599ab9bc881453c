"""Requests of the Open Inference Protocol's `infer`, with JSON and with binary tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

import json
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from export.serve.interface import IMAGES, Interface
from export.serve.problem import Problem

__all__ = ["Inference", "Wanted", "json_length", "parse_inference"]

_LONGEST_ID = 1024
_LONGEST_HEAD = 65_536  # bytes of JSON in front of binary tensors
_ELSEWHERE = 1000  # lists, objects, and commas that are not of the tensor
_SHOWN = 60  # characters of what a client sent, in a sentence


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for.

    Attributes:
        name: of the output.
        binary: whether as a binary tensor.
        top: if not 0, the largest so many as `VALUE:INDEX:CLASS` instead of the numbers.
    """

    name: str
    binary: bool = False
    top: int = 0


@dataclass(frozen=True, eq=False)
class Inference:
    """A request to infer.

    Attributes:
        images: uint8 `[N, H, W, 3]`.
        outputs: in the order asked for.
        id: to be sent back, if there is one.
    """

    images: npt.NDArray[np.uint8]
    outputs: tuple[Wanted, ...]
    id: str | None = None


def parse_inference(body: bytes, header: bytes | None, interface: Interface, most: int) -> Inference:
    """Read a request.

    Args:
        body: of the HTTP request, unpacked.
        header: value of `Inference-Header-Content-Length`: bytes of JSON, after which binary tensors follow.
        interface: of the model.
        most: images that a request may have.

    Raises:
        Problem: 400, whatever is wrong with it; 413 if it has more images, or more JSON than they need.
    """
    length = json_length(body, header)
    text, binary = body[:length], memoryview(body)[length:]
    _check_size(text, interface, most)
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the request is not JSON: {_short(str(error))}") from error
    if not isinstance(table, dict):
        raise Problem(400, "the request is not a JSON object")
    name = table.get("id")
    if name is not None and (not isinstance(name, str) or len(name) > _LONGEST_ID):
        raise Problem(400, f"'id' is not a string of at most {_LONGEST_ID} characters")
    parameters = _parameters(table, "the request")
    outputs = _outputs(table, _flag(parameters, "binary_data_output", "the request"), interface)
    return Inference(_images(table, binary, interface, most), outputs, name)


def json_length(body: bytes, header: bytes | None) -> int:
    """Return how many bytes of a body are JSON; arguments and errors as in `parse_inference`."""
    if header is None:
        return len(body)
    if not header.isdigit() or len(header) > 12 or int(header) > len(body):  # noqa: PLR2004  # 12 digits: an int, quickly
        raise Problem(
            400,
            f"Inference-Header-Content-Length is {_short(header.decode('latin-1'))!r}, "
            f"which is no number of bytes up to the body's {len(body)}",
        )
    length = int(header)
    if _LONGEST_HEAD < length < len(body):
        raise Problem(413, f"{length:,} bytes of JSON precede the binary tensors: at most {_LONGEST_HEAD:,} may")
    return length


def _check_size(text: bytes, interface: Interface, most: int) -> None:
    """Raise `Problem` 413 for JSON of more parts than the largest request has: reading it would keep others waiting."""
    height, width = interface.size
    lists = 1 + most * (1 + height * (1 + width))
    for sign, number in ((b"[", lists), (b"{", 0), (b",", most * height * width * 3)):
        if text.count(sign) > number + _ELSEWHERE:
            raise Problem(413, f"the request has more JSON than {most} images need: send at most as many in a request")


def _images(table: dict[str, Any], binary: memoryview, interface: Interface, most: int) -> npt.NDArray[np.uint8]:
    """Return the tensor of the only input."""
    inputs = table.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Problem(400, f"'inputs' is not a list of one tensor, {IMAGES!r}")
    tensor = inputs[0]
    if tensor.get("name") != IMAGES:
        raise Problem(400, f"input {_short(tensor.get('name'))!r} is unknown: the model takes {IMAGES!r}")
    if tensor.get("datatype") != "UINT8":
        raise Problem(400, f"datatype of {IMAGES!r} is {_short(tensor.get('datatype'))!r} instead of 'UINT8'")
    shape = _shape(tensor.get("shape"), interface, most)
    parameters = _parameters(tensor, f"input {IMAGES!r}")
    size = parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise Problem(400, f"{len(binary)} bytes follow the JSON, but no input has 'binary_data_size'")
        if "data" not in tensor:
            raise Problem(400, f"input {IMAGES!r} has neither 'data' nor 'binary_data_size'")
        return _numbers(tensor["data"], shape)
    if "data" in tensor:
        raise Problem(400, f"input {IMAGES!r} has both 'data' and 'binary_data_size'")
    wanted = math.prod(shape)
    if isinstance(size, bool) or not isinstance(size, int) or size != wanted:
        raise Problem(400, f"'binary_data_size' is {_short(size)}: {wanted} bytes make the shape {list(shape)}")
    if len(binary) != wanted:
        raise Problem(400, f"{len(binary)} bytes follow the JSON instead of the {wanted} of 'binary_data_size'")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _shape(shape: object, interface: Interface, most: int) -> tuple[int, ...]:
    """Return a shape that the model takes."""
    height, width = interface.size
    takes = f"[N, {height}, {width}, 3]"
    if not isinstance(shape, list) or any(type(side) is not int for side in shape):
        raise Problem(400, f"shape of {IMAGES!r} is not a list of whole numbers: the model takes {takes}")
    if len(shape) != 4 or shape[1:] != [height, width, 3] or shape[0] < 1:  # noqa: PLR2004
        raise Problem(400, f"shape of {IMAGES!r} is {_short(shape)}: the model takes {takes} with N from 1")
    if shape[0] > most:
        raise Problem(413, f"{_short(shape[0])} images are too many: send at most {most} in a request")
    return tuple(shape)


def _numbers(data: object, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return a tensor of JSON numbers, nested as its shape or flat."""
    flat: list[Any] = data if isinstance(data, list) else [data]
    for depth in range(1, len(shape)):
        if not flat or not isinstance(flat[0], list):
            break
        rows = math.prod(shape[:depth])
        if len(flat) != rows or any(not isinstance(row, list) or len(row) != shape[depth] for row in flat):
            raise Problem(400, f"'data' of {IMAGES!r} is not nested as its shape {list(shape)}")
        flat = list(chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise Problem(
            400, f"'data' of {IMAGES!r} has {len(flat)} values instead of the {math.prod(shape)} of {list(shape)}"
        )
    if set(map(type, flat)) != {int}:  # True is 1 for the next line
        raise Problem(400, f"'data' of {IMAGES!r} has something other than whole numbers")
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"'data' of {IMAGES!r} has numbers outside 0..255") from error


def _outputs(table: dict[str, Any], binary: bool, interface: Interface) -> tuple[Wanted, ...]:  # noqa: FBT001
    """Return what is asked for; all outputs if nothing is said."""
    outputs = table.get("outputs")
    if outputs is None or outputs == []:
        return tuple(Wanted(name, binary) for name in interface.outputs)
    if not isinstance(outputs, list) or any(not isinstance(output, dict) for output in outputs):
        raise Problem(400, "'outputs' is not a list of objects")
    wanted: list[Wanted] = []
    for output in outputs:
        name = output.get("name")
        if name not in interface.outputs:
            there = " and ".join(repr(known) for known in interface.outputs)
            raise Problem(400, f"output {_short(name)!r} is unknown: the model gives {there}")
        if name in {known.name for known in wanted}:
            raise Problem(400, f"output {name!r} is asked for twice")
        parameters = _parameters(output, f"output {name!r}")
        top = parameters.get("classification", 0)
        if type(top) is not int or not 0 <= top <= len(interface.classes):
            raise Problem(400, f"'classification' is {_short(top)}: from 1 to {len(interface.classes)} is possible")
        wanted.append(Wanted(name, _flag(parameters, "binary_data", f"output {name!r}", usual=binary), top))
    return tuple(wanted)


def _parameters(table: dict[str, Any], of: str) -> dict[str, Any]:
    """Return the parameters of something; those of other extensions are allowed, and mean nothing here."""
    parameters = table.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Problem(400, f"'parameters' of {of} is not an object")
    return parameters


def _flag(parameters: dict[str, Any], name: str, of: str, *, usual: bool = False) -> bool:
    """Return a parameter that is true or false."""
    value = parameters.get(name, usual)
    if not isinstance(value, bool):
        raise Problem(400, f"{name!r} of {of} is {_short(value)!r}: it is true or false")
    return value


def _short(value: object) -> str:
    """Return what a client sent, as a short line."""
    text = repr(value) if not isinstance(value, str) else value
    line = "".join(c if c.isprintable() else " " for c in text[: _SHOWN + 1])
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
