"""A model repository of NVIDIA's Triton Inference Server: a graph, its labels, and how it is to be served.

    REPO/NAME/config.pbtxt    inputs and outputs, batching, devices, warm-up
    REPO/NAME/labels.txt      a class a line
    REPO/NAME/1/model.onnx    version 1, and so on

Fields are those of `model_config.proto` (github.com/triton-inference-server/common), options of accelerators those of
the ONNX Runtime backend (github.com/triton-inference-server/onnxruntime_backend, README.md).
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.devices import CUDA_OPTIONS, check_device, tensorrt_options
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
    "new_version",
]

CONFIG, LABELS, GRAPH = "config.pbtxt", "labels.txt", "model.onnx"

MAX_BATCH = 256
"""Images in the largest batch that Triton makes of requests, and so in the largest request."""
DELAY = 2000
"""Microseconds that a request waits at most for others to share its batch."""

_ENGINES = "/tmp/tensorrt-engines"  # noqa: S108  # of the server, whose container has nobody else's files
"""Where the server keeps TensorRT's engines, which take minutes to build: a volume there survives its container."""

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
        graph: the path to write.
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

    Labels and configuration are there before the block begins, and the graph should appear by being renamed: it makes
    them a model. A configuration that is there already stays as it is, if it fits the graph. If the block ends with an
    error, the repository is as it was.

    Raises:
        UsageError: a model of this name is there whose configuration does not fit the graph.
        CorruptError: its configuration cannot be read.
        StorageError: the disk refuses.
    """
    folder = repository / service.name
    kept = _check(folder, service)
    made: list[Path] = []
    try:
        with storage_errors(folder):
            version = 1 + max((int(part.name) for part in _parts(folder) if part.name.isdecimal()), default=0)
            place = folder / str(version)
            missing = [path for path in (place, *place.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir()
                made.append(path)
        for name, text in ((LABELS, service.labels), (CONFIG, to_text(config(service)))):
            if not (folder / name).exists():
                made.append(folder / name)
                atomic_write(folder / name, text.encode())
        yield Placed(place / GRAPH, version, kept)
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # what failed is what people should hear of
                _remove(path, whole=path.parent == folder)
        raise


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


def _check(folder: Path, service: Service) -> bool:
    """Say whether a model's folder has a configuration; errors as in `new_version`, if it does not fit the graph."""
    path, labels = folder / CONFIG, folder / LABELS
    try:
        there = path.read_text(encoding="utf-8") if path.exists() else None
        names = labels.read_text(encoding="utf-8") if labels.exists() else service.labels
        mine, its = parse_text(to_text(config(service))), None if there is None else parse_text(there)
        if its is None and names == service.labels:
            return False
        wrong = f"{LABELS} has other classes" if names != service.labels else _difference(mine, its or {}, service)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path} cannot be read ({error}): mend it, or give another --name") from error
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    if wrong is not None:
        raise UsageError(f"{path} does not fit this graph: {wrong}: change it, or give another --name")
    return True


def _difference(mine: Mapping[str, Any], its: Mapping[str, Any], service: Service) -> str | None:
    """Return what of a configuration does not fit a graph's own, in words."""
    if its.get("backend", ["onnxruntime"]) != ["onnxruntime"] or its.get("default_model_filename", [GRAPH]) != [GRAPH]:
        return f"it has another backend, or a file other than {GRAPH}"
    for key in ("input", "output"):
        here, there = (sorted(map(_tensor, fields.get(key, []))) for fields in (mine, its))
        if here != there:
            return f"{key} {'; '.join(there) or 'none'} instead of {'; '.join(here)}"
    ours, theirs = _accelerators(mine), _accelerators(its)
    if service.device is not None and set(ours) != set(theirs):
        return f"accelerators {', '.join(theirs) or 'none'} instead of {', '.join(ours) or 'none'}"
    if theirs.get("tensorrt", service.precision.upper()) != service.precision.upper():
        return f"TensorRT in {theirs['tensorrt']} instead of {service.precision.upper()}"
    return None


def _tensor(fields: Mapping[str, Any]) -> str:
    return f"{fields['name'][0]} {fields['data_type'][0]} [{', '.join(fields.get('dims', []))}]"


def _accelerators(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration's accelerators on GPUs: name -> precision, `FP32` where it is not said."""
    found = {}
    for policy in fields.get("optimization", []):
        for part in policy.get("execution_accelerators", []):
            for one in part.get("gpu_execution_accelerator", []):
                options = {option["key"][0]: option["value"][0] for option in one.get("parameters", [])}
                found[one["name"][0]] = options.get("precision_mode", "FP32")
    return found
