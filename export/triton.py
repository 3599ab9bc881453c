"""A model repository of NVIDIA's Triton Inference Server: a graph, its labels, and how it is to be served.

    REPO/NAME/config.pbtxt    inputs and outputs, batching, devices, warm-up
    REPO/NAME/labels.txt      a class a line
    REPO/NAME/1/model.onnx    version 1, and so on

Fields are those of `model_config.proto` (github.com/triton-inference-server/common), options of accelerators those of
the ONNX Runtime backend (github.com/triton-inference-server/onnxruntime_backend, README.md).
"""

import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.devices import CUDA_OPTIONS, check_device, tensorrt_options
from export.fitting import GRAPH, difference
from export.pbtxt import Enum, parse_text, to_text
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError
from zoo.files import atomic_write, storage_errors
from zoo.names import is_name

__all__ = [
    "CONFIG",
    "DELAY",
    "GRAPH",
    "LABELS",
    "MAX_BATCH",
    "Placed",
    "Service",
    "config",
    "in_version",
    "new_version",
]

CONFIG, LABELS = "config.pbtxt", "labels.txt"

MAX_BATCH = 256
"""Images in the largest batch that Triton makes of requests, and so in the largest request."""
DELAY = 2000
"""Microseconds that a request waits at most for others to share its batch."""

_ENGINES = "/tmp/tensorrt-engines"  # noqa: S108  # of the server, whose container has nobody else's files
"""Where the server keeps TensorRT's engines, which take minutes to build: a volume there survives its container."""

_VERSION = re.compile("([1-9][0-9]*)")
_WORK = re.compile(r"\.([1-9][0-9]*)\.[0-9a-f]{8}\.partial")
"""What a folder is called that is to become a version."""
_FORGOTTEN = 24 * 3600
"""Seconds after which nobody is at work in such a folder any more: an export takes minutes."""

_KINDS = {None: "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU", "tensorrt": "KIND_GPU"}


@dataclass(frozen=True)
class Service:
    """What Triton is to serve.

    Attributes:
        name: of the model, as an entry's.
        classes: names of the C classes.
        image: (H, W) of the graph's images.
        precision: of the graph: fp32, fp16 or int8.
        members: M, if the graph gives each member's probabilities, too.
        device: cpu, cuda or tensorrt; None for CUDA where the server has a GPU, and the CPU elsewhere.
        max_batch: images in the largest batch.
        delay: microseconds that a request waits at most for others.
        instances: copies of the graph on each GPU, or on the CPU.

    Raises:
        UsageError: the name is none, there is no such device, or a number is below 1.
        DataError: a class cannot stand in a line of its own.
    """

    name: str
    classes: tuple[str, ...]
    image: tuple[int, int]
    precision: str
    members: int | None = None
    device: str | None = None
    max_batch: int = MAX_BATCH
    delay: int = DELAY
    instances: int = 1

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise UsageError(f"--name {self.name!r}: names match [a-z0-9][a-z0-9._-]*")
        if self.device is not None:
            check_device(self.device)
        if min(self.max_batch, self.instances, self.delay + 1) < 1:
            raise UsageError("max_batch and instances are numbers from 1, and delay is one from 0")
        split = next((name for name in self.classes if name.splitlines() != [name]), None)
        if split is not None:
            raise DataError(f"the class {split!r} is not a line of text: Triton's labels are a line each")

    @property
    def labels(self) -> str:
        """The text of `labels.txt`."""
        return "".join(f"{name}\n" for name in self.classes)


@dataclass(frozen=True)
class Placed:
    """Where a graph goes.

    Attributes:
        graph: the path to write, in a folder whose name is none of a version's until the graph is whole.
        version: its number.
        kept: whether a `config.pbtxt` was there, and stays.
    """

    graph: Path
    version: int
    kept: bool


def config(service: Service) -> dict[str, Any]:
    """Return the fields of a `ModelConfig`: a mapping for a message, a list for what is repeated."""
    height, width = service.image
    image = {"data_type": Enum("TYPE_UINT8"), "dims": [height, width, 3]}
    outputs = [_output("probs", [len(service.classes)]) | {"label_filename": LABELS}]
    if service.members is not None:
        outputs.append(_output("member_probs", [service.members, len(service.classes)]))
    preferred = sorted({max(1, service.max_batch // part) for part in (4, 2, 1)})
    fields = {
        "name": service.name,
        "backend": "onnxruntime",
        "max_batch_size": service.max_batch,
        "input": [{"name": "images", **image}],
        "output": outputs,
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {"preferred_batch_size": preferred, "max_queue_delay_microseconds": service.delay},
        "instance_group": [{"kind": Enum(_KINDS[service.device]), "count": service.instances}],
        "model_warmup": [
            {
                "name": f"batch of {batch}",
                "batch_size": batch,
                "inputs": [{"key": "images", "value": {**image, "zero_data": True}}],
            }
            for batch in sorted({1, *preferred})
        ],
    }
    if service.device != "cpu":
        gpu = [_tensorrt(service)] if service.device == "tensorrt" else []
        gpu.append(_accelerator("cuda", CUDA_OPTIONS))  # also of what TensorRT cannot run
        fields["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": gpu}}
    return fields


def _output(name: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Enum("TYPE_FP32"), "dims": dims}


def _accelerator(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "parameters": [{"key": key, "value": value} for key, value in options.items()]}


def _tensorrt(service: Service) -> dict[str, Any]:
    """Return the accelerator for TensorRT's engines."""
    usual = max(1, service.max_batch // 4)
    engines = tensorrt_options(service.image, _ENGINES, usual=usual, largest=service.max_batch)
    return _accelerator("tensorrt", {"precision_mode": service.precision.upper(), **engines})


@contextmanager
def new_version(repository: Path, service: Service) -> Iterator[Placed]:
    """Make room for a graph in a repository, as the next version of its model; whole or not at all.

    What the block writes beside `Placed.graph` is in a folder that Triton takes for no version, and gets the version's
    number when the block ends; labels and configuration come just before, if there are none. A configuration that is
    there already stays as it is, if it fits the graph. If the block ends with an error, the repository is as it was.
    What somebody left who was killed meanwhile is removed once it is a day old; until then, its number is not used.

    Raises:
        UsageError: a model of this name is there whose configuration or labels do not fit the graph.
        CorruptError: its configuration or labels cannot be read.
        StorageError: the disk refuses.
    """
    folder = repository / service.name
    with storage_errors(folder):
        _tidy(folder)
        version = 1 + max(map(_number, _parts(folder)), default=0)
    kept = _check(folder, service, version)
    work = folder / f".{version}.{uuid.uuid4().hex[:8]}.partial"
    made: list[Path] = []
    try:
        with storage_errors(folder):
            for path in [path for path in (work, *work.parents) if not path.exists()][::-1]:
                path.mkdir()
                made.append(path)
        yield Placed(work / GRAPH, version, kept)
        _check(folder, service, version)  # others may have been here meanwhile
        for name, text in ((LABELS, service.labels), (CONFIG, to_text(config(service)))):
            if not (folder / name).exists():
                made.append(folder / name)
                atomic_write(folder / name, text.encode())
        with storage_errors(folder / str(version)):
            work.rename(folder / str(version))
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # what failed is what people should hear of
                _remove(path, whole=path == work)
        raise


def in_version(path: Path) -> Path:
    """Return where a file of a version that is not whole will be once it is; any other path is returned as it is."""
    found = _WORK.fullmatch(path.parent.name)
    return path if found is None else path.parent.with_name(found[1]) / path.name


def _number(part: Path) -> int:
    """Return the version that a folder is, or is to become, 0 for none.

    Triton takes the number that a name begins with, 8 for `8.bak` (core, `VersionsToLoad` in model_lifecycle.cc).
    """
    found = _WORK.fullmatch(part.name) or _VERSION.match(part.name)
    return 0 if found is None else int(found[1])


def _tidy(folder: Path) -> None:
    """Remove what was to become versions, and has not for a day."""
    for part in _parts(folder):
        with suppress(OSError):  # it is whole by now, or somebody else's: Triton does not mind it, nor need we
            if _WORK.fullmatch(part.name) and time.time() - part.stat().st_mtime > _FORGOTTEN:
                shutil.rmtree(part)


def _parts(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path, *, whole: bool) -> None:
    """Remove a file, a version's folder with all that is in it, or a folder above, which others may use by now."""
    if not path.is_dir():
        path.unlink()
    elif whole:
        shutil.rmtree(path)
    else:
        path.rmdir()


def _check(folder: Path, service: Service, version: int) -> bool:
    """Say whether a model's folder has a configuration; errors as in `new_version`, if it does not fit the graph."""
    path, labels = folder / CONFIG, folder / LABELS
    if _read(labels) not in {None, service.labels}:
        raise UsageError(f"{labels} has other classes than this graph: change it, or give another --name")
    there = _read(path)
    if there is None:
        return False
    try:
        mine, its = parse_text(to_text(config(service))), parse_text(there)
        wrong = difference(mine, its, version=version, precision=service.precision, device=service.device)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path} cannot be read ({error}): mend it, or give another --name") from error
    if wrong is not None:
        raise UsageError(f"{path} does not fit this graph: {wrong}: change it, or give another --name")
    return True


def _read(path: Path) -> str | None:
    """Return the text of a file, None if it is not there."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path} cannot be read ({error}): mend it, or give another --name") from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
