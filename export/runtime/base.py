"""What sessions have in common: the options that they are opened with, and what they say of themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from export.metadata import About
from export.runtime.answer import Answer, Floats
from zoo.errors import UsageError

__all__ = ["AnySession", "Options"]


class Options(TypedDict, total=False):
    """How a graph is run; `Session` has the defaults.

    Attributes:
        device: `cpu`, `cuda` or `tensorrt` [default: cuda if the machine has an NVIDIA GPU, else cpu].
        allow_cpu: take the CPU, for all of the graph or some of its nodes, where the device cannot run them. ONNX
            Runtime does so silently; here it is an error otherwise.
        threads: that a batch is divided among on a CPU [default: as many as this process has processors].
        spin: whether idle threads wait for work in a loop, which is quicker to start them and takes processors from
            whatever else runs on the machine [default: yes].
        index: of the GPU [default: 0].
    """

    device: str | None
    allow_cpu: bool
    threads: int | None
    spin: bool
    index: int


class AnySession(ABC):
    """What `ensemble export` wrote, ready to run. It may be called from several threads at once.

    Attributes:
        path: of the file, or of the folder.
        about: what the file says of itself; of a folder, its first file.
        provider: of ONNX Runtime, that runs the graph.
        input_size: (H, W) in pixels.
        has_members: whether answers have each member's probabilities, too.
    """

    path: Path
    about: About
    provider: str
    input_size: tuple[int, int]
    has_members: bool

    @property
    def lockfile(self) -> dict[str, Any]:
        """The lockfile of the ensemble, as JSON has it."""
        return self.about.lockfile

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns."""
        return self.about.classes

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names."""
        return self.about.members

    @property
    def precision(self) -> str:
        """Of the networks: fp32, fp16 or int8."""
        return self.about.precision

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of the file; of several, of their digests."""

    @abstractmethod
    def answer(self, images: npt.NDArray[np.uint8]) -> Answer:
        """Return all that is known of images, uint8 `[N, H, W, 3]`; errors as in `run`."""

    @abstractmethod
    def run(self, images: npt.NDArray[np.uint8]) -> Floats:
        """Return probabilities `[N, C]` of images, uint8 `[N, H, W, 3]`; N may be 0.

        Raises:
            UsageError: other images than the graph takes, or the graph is one stage of a cascade.
        """

    @abstractmethod
    def warm_up(self, batches: Iterable[int] = (1, 64)) -> None:
        """Run batches of these sizes, so that nobody waits for what the first run of a size prepares.

        Raises:
            UsageError: a size is below 1.
        """

    def black(self, batch: int) -> npt.NDArray[np.uint8]:
        """Return a batch of black images, to warm up with; errors as in `warm_up`."""
        if batch < 1:
            raise UsageError(f"a batch of {batch} images: give sizes from 1")
        return np.zeros((batch, *self.input_size, 3), np.uint8)
