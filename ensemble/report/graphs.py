"""Exported graphs in a report: run by ONNX Runtime on the same images, and timed in the same way.

A graph takes `images`, uint8 `[batch, H, W, 3]`, and gives `probs`, float32 `[batch, classes]`; its metadata has the
lockfile of the ensemble that it is, under `menagerie.ensemble`.
"""

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble.comparison import Answers
from ensemble.latency.hardware import hardware, rounding
from zoo import store
from zoo.data import Split
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError
from zoo.files import atomic_write, sha256_file, storage_errors, warn_if_not_kept

if TYPE_CHECKING:
    import torch

__all__ = ["KEY", "Graph", "find_graphs"]

KEY = "menagerie.ensemble"
"""Where a graph's metadata has its lockfile."""

_BATCH = 500
_CUDA = "CUDAExecutionProvider"
_TENSOR_TYPES = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}  # onnx.TensorProto's numbers


@dataclass(frozen=True, eq=False)
class Graph:
    """One exported graph, ready to run.

    Attributes:
        path: of the file.
        sha256: of its bytes, and of its external data's if it has some beside it.
        lockfile: of its metadata.
        precision: of most of its weights: fp32, fp16, bf16, int8.
        provider: of ONNX Runtime, that it runs on.
        session: of ONNX Runtime.
    """

    path: Path
    sha256: str
    lockfile: dict[str, Any]
    precision: str
    provider: str
    session: Any

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members that are in it."""
        return tuple(str(member["name"]) for member in self.lockfile["members"])

    @property
    def validation(self) -> tuple[float | None, float | None]:
        """Accuracy and NLL on the validation split as the lockfile states them; None where it does not."""
        stated = (self.lockfile.get("metrics") or {}).get("val") or {}
        return stated.get("accuracy"), stated.get("nll")

    def run(self, images: "torch.Tensor | npt.NDArray[np.uint8]") -> npt.NDArray[np.float32]:
        """Return probabilities `[B, C]` of images, uint8 `[B, H, W, 3]`, in the machine's memory."""
        pixels = images if isinstance(images, np.ndarray) else images.numpy()
        (probs,) = self.session.run(["probs"], {"images": pixels})
        return np.asarray(probs, np.float32)

    def answers(self, split: Split, name: str) -> Answers:
        """Return what it says of a split, rows in the order of `Split.order`.

        It is kept, for this graph, these images, and this hardware with the versions of what runs on it.

        Args:
            split: the images.
            name: of the split.

        Raises:
            DataError: it is for other classes or images than the split has.
        """
        if tuple(self.lockfile.get("classes") or ()) != split.classes:
            raise DataError(f"{self.path} tells other classes apart than the {name} split has")
        where = rounding(hardware("cuda" if self.provider == _CUDA else "cpu"))
        path = store.home() / "graphs" / f"{self.sha256[:32]}-{where}-{name}-{split.fingerprint[:16]}.npy"
        probs = _kept(path, (len(split), len(split.classes)))
        if probs is None:
            images = split.images[split.order]
            parts = [self.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
            probs = np.concatenate(parts)
            if probs.shape != (len(split), len(split.classes)) or not np.isfinite(probs).all():
                raise DataError(
                    f"{self.path} gives {list(probs.shape)} numbers for {len(split)} images, not one a class"
                )
            with warn_if_not_kept("what was answered"):
                _keep(path, probs)
        votes = self.lockfile.get("merge") == "vote"
        return Answers(probs, probs.argmax(1), likelihood=not votes)


def find_graphs(folder: Path, device: str) -> list[Graph]:
    """Open every `*.onnx` of a folder on a kind of device, sorted by name.

    Args:
        folder: with graphs.
        device: `cpu` or `cuda`.

    Raises:
        NotFoundError: there is no graph.
        CorruptError: a file is no graph, or not one of ours.
        UsageError: ONNX Runtime cannot use the device.
    """
    paths = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    if not paths:
        raise NotFoundError(f"--graphs {str(folder)!r}: there is no *.onnx file")
    return [_open(path, device) for path in paths]


def _open(path: Path, device: str) -> Graph:
    import onnxruntime  # noqa: PLC0415  # only reports with graphs need it

    provider = _CUDA if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(f"--graphs: the installed ONNX Runtime has no {provider}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if device == "cuda":  # it would go on silently on the CPU
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its errors share no other base
        reason = str(error).partition("\n")[0]
        raise CorruptError(f"{path} cannot be run by ONNX Runtime on {device}: {reason}") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    try:
        lockfile = json.loads(text or "")
        members = [str(member["name"]) for member in lockfile["members"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptError(f"{path} does not say which ensemble it is: its metadata has no {KEY}") from error
    names = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
    if not members or names[0] != {"images"} or "probs" not in names[1]:
        raise CorruptError(f"{path} does not take `images` and give `probs`")
    if session.get_providers()[0] != provider:
        raise UsageError(f"{path} does not run on {device}: ONNX Runtime took {session.get_providers()[0]}")
    return Graph(path, _digest(path), lockfile, _precision(path), provider, session)


def _digest(path: Path) -> str:
    beside = path.with_name(path.name + ".data")
    parts = [sha256_file(file) for file in (path, beside) if file.is_file()]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _precision(path: Path) -> str:
    """Return the type of most weights of a graph."""
    import onnx  # noqa: PLC0415  # as above

    graph = onnx.load(str(path), load_external_data=False).graph
    sizes: Counter[str] = Counter()
    for tensor in graph.initializer:
        if tensor.data_type in _TENSOR_TYPES:
            sizes[_TENSOR_TYPES[tensor.data_type]] += int(np.prod(tensor.dims, dtype=np.int64))
    return sizes.most_common(1)[0][0] if sizes else "fp32"


def _kept(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Return probabilities that an earlier run kept; None if there are none that fit."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # a cache: whatever is wrong with it, the graph can run again
        return None
    return np.asarray(found, np.float32) if found.shape == shape else None


def _keep(path: Path, probs: npt.NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, probs)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())
