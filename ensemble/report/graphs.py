"""Exported graphs in a report: run by ONNX Runtime on the same images, and timed in the same way."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ensemble.comparison import Answers
from ensemble.latency.hardware import hardware, rounding
from zoo import store
from zoo.data import Split
from zoo.errors import DataError, NotFoundError
from zoo.files import atomic_write, storage_errors, warn_if_not_kept

if TYPE_CHECKING:
    import torch

__all__ = ["Graph", "Runs", "find_graphs"]

_BATCH = 500
_CUDA = "CUDAExecutionProvider"
_FIRST_STAGE = "stage1.onnx"


class Runs(Protocol):
    """What runs a graph: a session of `export.runtime`."""

    path: Path
    provider: str

    @property
    def sha256(self) -> str:
        """Of what is in the files."""
        ...

    @property
    def lockfile(self) -> dict[str, Any]:
        """Of the ensemble that it is."""
        ...

    @property
    def precision(self) -> str:
        """Of its networks."""
        ...

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return probabilities `[N, C]` of images, uint8 `[N, H, W, 3]`."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """One exported graph, or the stage graphs of a cascade, ready to run.

    Attributes:
        session: that runs it.
    """

    session: Runs

    @property
    def path(self) -> Path:
        """Of the graph, or of the folder of stage graphs."""
        return self.session.path

    @property
    def sha256(self) -> str:
        """Of what is in the files."""
        return self.session.sha256

    @property
    def lockfile(self) -> dict[str, Any]:
        """Of the ensemble that it is, as JSON has it."""
        return self.session.lockfile

    @property
    def precision(self) -> str:
        """Of its networks: fp32, fp16, int8."""
        return self.session.precision

    @property
    def provider(self) -> str:
        """Of ONNX Runtime, that it runs on."""
        return self.session.provider

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
        return self.session.run(pixels)

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


def find_graphs(folder: Path, load: Callable[[Path], Runs]) -> list[Graph]:
    """Open every `*.onnx` of a folder, and every folder of stage graphs in it, sorted by name.

    Args:
        folder: with graphs.
        load: returns a session; its errors are this function's, too.

    Raises:
        NotFoundError: there is no graph.
    """
    paths = (
        [*folder.glob("*.onnx"), *(file.parent for file in folder.glob(f"*/{_FIRST_STAGE}"))] if folder.is_dir() else []
    )
    if not paths:
        raise NotFoundError(f"--graphs {str(folder)!r}: there is no *.onnx file")
    return [Graph(load(path)) for path in sorted(paths)]


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
