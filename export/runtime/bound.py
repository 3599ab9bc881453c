"""Runs on a GPU through buffers that stay where they are, replayed as CUDA graphs.

Launching a network's kernels one after the other costs a CPU more than a GPU takes to compute them for a few images; a
CUDA graph launches all of them at once. It is recorded for one batch size and for fixed addresses, so batches are
padded to the next of a few sizes, each with buffers of its own:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview

ONNX Runtime keeps a graph for the thread that recorded it, and while it records one, what another thread asks of CUDA
may fail (`PerThreadContext` in its cuda_execution_provider.h, `CaptureBegin` in cuda_graph.cc). So one thread of the
process does it all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.devices import LARGEST_BATCH
from export.runtime.answer import Floats

__all__ = ["BoundRuns", "bucket", "in_parts", "on_gpu_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_GPU_THREAD = ThreadPoolExecutor(1, thread_name_prefix="gpu")  # it starts with its first work


def bucket(images: int) -> int:
    """Return the batch size that images are padded to: a power of two, or three quarters of one from 48 on.

    So at most a third of what is computed from there on is padding, and at most a half below.

    Args:
        images: from 1 to `LARGEST_BATCH`.
    """
    power = 1 << (images - 1).bit_length()
    smaller = power * 3 // 4
    return smaller if smaller >= 48 and images <= smaller else power  # noqa: PLR2004


def on_gpu_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function on the thread that may ask something of CUDA, and return what it returns.

    That thread itself must not call this.
    """
    return _GPU_THREAD.submit(function, *args, **kwargs).result()


def in_parts(
    run: Callable[[npt.NDArray[np.uint8], Sequence[str]], list[Floats]],
    images: npt.NDArray[np.uint8],
    names: Sequence[str],
) -> list[Floats]:
    """Return outputs of any number of images, of which at most `LARGEST_BATCH` are run at once.

    Args:
        run: images and names of outputs -> these outputs.
        images: uint8 `[N, H, W, 3]`, N from 1.
        names: of outputs.
    """
    parts = [run(images[n : n + LARGEST_BATCH], names) for n in range(0, len(images), LARGEST_BATCH)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Buffers:
    """What a batch size has on the GPU: its input, its outputs, and what binds them."""

    images: Any
    outputs: dict[str, Any]
    binding: Any
    options: Any


class BoundRuns:
    """Batches of an ONNX Runtime session on a GPU; one at a time, with those of all other sessions.

    Args:
        session: on the CUDA provider, with CUDA graphs enabled.
        index: of the GPU.
    """

    def __init__(self, session: onnxruntime.InferenceSession, index: int) -> None:
        self._session, self._index = session, index
        (self._shape,) = [tuple(node.shape[1:]) for node in session.get_inputs()]
        self._outputs = {node.name: tuple(node.shape[1:]) for node in session.get_outputs()}
        self._buffers: dict[int, _Buffers] = {}

    def run(self, images: npt.NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        """Return outputs by their names, N rows each.

        Args:
            images: uint8 `[N, H, W, 3]`, N from 1 to `LARGEST_BATCH`.
            names: of outputs.
        """
        padded = np.zeros((bucket(len(images)), *self._shape), np.uint8)
        padded[: len(images)] = images
        return [values[: len(images)] for values in on_gpu_thread(self._run, padded, names)]

    def _run(self, images: npt.NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        size = len(images)
        if size not in self._buffers:
            self._buffers[size] = self._bind(size)
        buffers = self._buffers[size]
        buffers.images.update_inplace(images)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [buffers.outputs[name].numpy().copy() for name in names]

    def _bind(self, size: int) -> _Buffers:
        """Return the buffers of a batch size; its first run records the graph."""
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        binding = self._session.io_binding()
        images = make((size, *self._shape), np.uint8, "cuda", self._index)
        binding.bind_ortvalue_input("images", images)
        outputs = {name: make((size, *rest), np.float32, "cuda", self._index) for name, rest in self._outputs.items()}
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))
        return _Buffers(images, outputs, binding, options)
