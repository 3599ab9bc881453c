"""Weights in a file beside their graph: what it is called, which files a graph reads, and how all take their places."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from zoo.errors import CorruptError
from zoo.files import is_plain, sha256_file, storage_errors

__all__ = ["check_weights", "is_weights_of", "locations", "put_in_place", "weights_name"]

_DIGITS = 16  # of a sha256 of 64
_NAME = re.compile(rf".*\.([0-9a-f]{{{_DIGITS}}})\.data")


def weights_name(graph: str, digest: str) -> str:
    """Return the name of a file of weights: `model.onnx.3f2a9c0d1e4b5a67.data`.

    Other weights have another name, so that a graph and its weights can be replaced without a moment in which the graph
    reads weights that are not its own.

    Args:
        graph: the name of its graph's file.
        digest: sha256 of its content.
    """
    return f"{graph}.{digest[:_DIGITS]}.data"


def is_weights_of(name: str, graph: str) -> bool:
    """Say whether a file has the name of weights of a graph's file, as we call them or once did (`model.onnx.data`)."""
    return re.fullmatch(rf"{re.escape(graph)}(\.[0-9a-f]{{{_DIGITS}}})?\.data", name) is not None


def locations(message: Any) -> set[str]:  # noqa: ANN401  # any part of a graph, which are classes without types
    """Return the files that a graph reads its weights from, wherever in it a weight may be."""
    return {place["location"] for place in _places(message)}


def _places(message: Any) -> Iterator[dict[str, str]]:  # noqa: ANN401  # as in `locations`
    """Yield what each weight outside a graph says of where it is: `location`, and maybe `offset` and `length`."""
    if isinstance(message, onnx.TensorProto):
        place = {entry.key: entry.value for entry in message.external_data}
        if "location" in place:
            yield place
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _places(part)


def check_weights(model: onnx.ModelProto, path: Path) -> dict[Path, str | None]:
    """Return the files beside a graph that it reads its weights from, and their digests where these were looked at.

    What has a name as of `weights_name` must have that digest: ONNX Runtime reads whatever is long enough, such as the
    half of a copy whose space was set aside first. Other files must be as long as the graph reads.

    Args:
        model: the graph, without its weights.
        path: of its file.

    Raises:
        CorruptError: a file is elsewhere, not there, or not the graph's.
    """
    found: dict[Path, str | None] = {}
    for location in sorted(locations(model)):
        if not is_plain(location) or location == path.name:
            raise CorruptError(f"{path} would read its weights from {location[:80]!r}, which is not a file beside it")
        file = path.with_name(location)
        if not file.is_file():
            raise CorruptError(f"{path} has its weights in {location!r}, which is not there: move the two together")
        named = _NAME.fullmatch(location)
        found[file] = sha256_file(file) if named else None
        other = named is not None and not str(found[file]).startswith(named[1])
        if other or file.stat().st_size < _read_of(model, location):
            raise CorruptError(f"{file} does not have the weights of {path}: copy the graph and it again")
    return found


def _read_of(model: onnx.ModelProto, location: str) -> int:
    """Return how many bytes a graph reads of a file: as many as its last weight there ends at."""
    ends = [0]
    for place in _places(model):
        numbers = [place.get(key, "0") for key in ("offset", "length")]
        if place["location"] == location and all(number.isdecimal() for number in numbers):
            ends.append(sum(int(number) for number in numbers))
    return max(ends)


def put_in_place(made: Path, path: Path) -> None:
    """Move a graph and its weights to where another may be: whoever reads there finds one of the two, whole.

    The weights go first, which the graph that is there does not know; then, at once, the graph; then the weights are
    removed that only the old graph read.

    Args:
        made: the new graph, its weights beside it, in a folder of the same disk.
        path: where it goes.

    Raises:
        StorageError: the disk refuses; what was there is as it was.
    """
    needed = locations(onnx.load(str(made), load_external_data=False))
    old = _own_weights(path)
    arrived: list[Path] = []
    with storage_errors(path):
        try:
            for name in sorted(needed):
                target = path.with_name(name)
                if not target.exists():  # or the old graph may have the same weights
                    arrived.append(target)
                _flush(made.with_name(name))
                os.replace(made.with_name(name), target)  # noqa: PTH105
            os.replace(made, path)  # noqa: PTH105
        except BaseException:
            for target in arrived:
                target.unlink(missing_ok=True)
            raise
        for name in old - needed:
            path.with_name(name).unlink(missing_ok=True)


def _own_weights(path: Path) -> set[str]:
    """Return the files beside a graph that it reads its weights from, and that have the names of its weights."""
    try:
        read = locations(onnx.load(str(path), load_external_data=False))
    except Exception:  # noqa: BLE001  # whatever lies there, it is no graph
        return set()
    return {name for name in read if is_plain(name) and is_weights_of(name, path.name)}


def _flush(path: Path) -> None:
    """Wait until a file's content is on the disk, as a graph must not be there before its weights."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
