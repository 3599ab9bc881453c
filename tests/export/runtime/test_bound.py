"""Padded batches in buffers that are used again, on a made-up GPU: no test machine needs one for it."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.devices import LARGEST_BATCH
from export.runtime import bound
from export.runtime.bound import BoundRuns, bucket, in_parts
from tests.conftest import random_split

SIDE, CLASSES = 4, 3


@given(st.integers(1, LARGEST_BATCH))
def test_buckets(images: int) -> None:
    size = bucket(images)
    assert images <= size <= LARGEST_BATCH
    assert bucket(size) == size, "a bucket is its own"
    padding = (size - images) / size
    assert padding < 1 / 3 if size >= 48 else padding < 1 / 2
    assert size in {2**n for n in range(13)} | {48, 96, 192, 384, 768, 1536, 3072}


def test_buckets_are_few_and_in_order() -> None:
    sizes = [bucket(images) for images in range(1, LARGEST_BATCH + 1)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 13 + 7
    assert [bucket(n) for n in (1, 2, 3, 5, 32, 33, 48, 49, 64, 65, 96, 97, 4096)] == [
        1, 2, 4, 8, 32, 48, 48, 64, 64, 96, 96, 128, 4096,
    ]  # fmt: skip


@dataclass
class Value:
    """What stands for memory of a GPU: it keeps its address."""

    shape: tuple[int, ...]
    kind: Any
    where: tuple[str, int]
    array: npt.NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.array = np.full(self.shape, 77, self.kind)

    def update_inplace(self, array: npt.NDArray[Any]) -> None:
        assert (array.shape, array.dtype) == (self.shape, self.kind)
        assert array.flags["C_CONTIGUOUS"]
        self.array[:] = array

    def numpy(self) -> npt.NDArray[Any]:
        return self.array


@dataclass
class Binding:
    """What a batch size reads and writes."""

    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value


class Options:
    """Of a run."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


@dataclass(frozen=True)
class Node:
    name: str
    shape: Sequence[int | str]


def probs_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what the made-up graph says: sums over pixels."""
    sums: npt.NDArray[np.float32] = images.reshape(len(images), -1, CLASSES).sum(1, dtype=np.float32)
    return sums


_BUSY = threading.Lock()
"""Of the GPU, which all sessions share."""


class Device:
    """A session of ONNX Runtime whose graph is `probs_of`, twice for `member_probs`."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, str]] = []
        self.bindings: list[Binding] = []
        self.threads: set[int] = set()

    def get_inputs(self) -> list[Node]:
        return [Node("images", ["batch", SIDE, SIDE, 3])]

    def get_outputs(self) -> list[Node]:
        return [Node("probs", ["batch", CLASSES]), Node("member_probs", ["batch", 2, CLASSES])]

    def io_binding(self) -> Binding:
        self.bindings.append(Binding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding: Binding, options: Options) -> None:
        assert _BUSY.acquire(blocking=False), "one run at a time: buffers are shared, and graphs recorded"
        try:
            pixels = binding.inputs["images"].array
            self.threads.add(threading.get_ident())
            self.runs.append((len(pixels), options.entries["gpu_graph_id"]))
            said = probs_of(pixels)
            time.sleep(0.001)  # another thread's turn
            binding.outputs["probs"].array[:] = said
            binding.outputs["member_probs"].array[:] = np.stack([said, -said], 1)
        finally:
            _BUSY.release()


class _Runtime:
    """The parts of ONNX Runtime that are used."""

    RunOptions = Options

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(shape: tuple[int, ...], kind: Any, device: str, index: int) -> Value:  # noqa: ANN401
            return Value(shape, kind, (device, index))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(bound, "onnxruntime", _Runtime)
    return Device()


def pixels(images: int) -> npt.NDArray[np.uint8]:
    return random_split(images, size=SIDE).images


@pytest.mark.parametrize("images", [1, 3, 33, 48, 100])
def test_padding_does_not_show(device: Device, images: int) -> None:
    given_images = pixels(images)
    probs, own = BoundRuns(device, 1).run(given_images, ["probs", "member_probs"])
    np.testing.assert_array_equal(probs, probs_of(given_images))
    np.testing.assert_array_equal(own, np.stack([probs, -probs], 1))
    assert device.runs == [(bucket(images), str(bucket(images)))]
    (binding,) = device.bindings
    assert not binding.inputs["images"].array[images:].any(), "the rest is black"
    values = [*binding.inputs.values(), *binding.outputs.values()]
    assert {value.where for value in values} == {("cuda", 1)}
    assert [value.kind for value in values] == [np.uint8, np.float32, np.float32]


def test_only_the_outputs_asked_for_in_their_order(device: Device) -> None:
    runs = BoundRuns(device, 0)
    own, probs = runs.run(pixels(2), ["member_probs", "probs"])
    assert (own.shape, probs.shape) == ((2, 2, CLASSES), (2, CLASSES))
    assert len(runs.run(pixels(2), ["probs"])) == 1


def test_buffers_are_used_again_and_answers_are_not_overwritten(device: Device) -> None:
    runs = BoundRuns(device, 0)
    first_images, second_images = pixels(3), pixels(4)[::-1].copy()
    (first,) = runs.run(first_images, ["probs"])
    kept = first.copy()
    (second,) = runs.run(second_images, ["probs"])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, probs_of(second_images))
    assert len(device.bindings) == 1, "three and four images fit into the same"
    runs.run(pixels(5), ["probs"])
    assert len(device.bindings) == 2
    assert device.runs == [(4, "4"), (4, "4"), (8, "8")]


def test_more_than_the_largest_batch_runs_in_parts(device: Device) -> None:
    images = pixels(2 * LARGEST_BATCH + 5)
    probs, own = in_parts(BoundRuns(device, 0).run, images, ["probs", "member_probs"])
    assert [size for size, _ in device.runs] == [LARGEST_BATCH, LARGEST_BATCH, 8]
    np.testing.assert_array_equal(probs, probs_of(images))
    np.testing.assert_array_equal(own[:, 1], -probs)


def test_threads_take_turns_and_sessions_too(device: Device) -> None:
    devices = [device, Device()]
    sessions = [BoundRuns(one, 0) for one in devices]
    batches = [pixels(n % 5 + 1) + n for n in range(40)]

    def ask(number: int) -> npt.NDArray[np.float32]:
        return sessions[number % 2].run(batches[number], ["probs"])[0]

    with ThreadPoolExecutor(8) as pool:
        for found, images in zip(pool.map(ask, range(40)), batches, strict=True):
            np.testing.assert_array_equal(found, probs_of(images))
    assert [len(one.runs) for one in devices] == [20, 20]
    threads = set[int]().union(*(one.threads for one in devices))
    assert len(threads) == 1, "ONNX Runtime keeps a graph for the thread that recorded it"
    assert threading.get_ident() not in threads


def test_an_error_on_the_gpu_is_the_callers(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = BoundRuns(device, 0)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(device, "run_with_iobinding", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            runs.run(pixels(2), ["probs"])
    np.testing.assert_array_equal(runs.run(pixels(2), ["probs"])[0], probs_of(pixels(2)))
