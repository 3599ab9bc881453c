"""Graphs on a GPU answer as they do on the CPU: in every precision, in cascades, and whoever asks at the same time."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from ensemble.lockfile import Committee
from ensemble.members import parse_members
from export.devices import CUDA, DEVICES, LARGEST_BATCH
from export.parity import LIMITS, Expected, compare
from export.pipeline import export
from export.runtime import Answer, CascadeSession, Session, open_session
from export.runtime.base import AnySession
from tests.ensemble.conftest import pictures
from tests.export.conftest import order_of, torch_says
from zoo.data import Split, load_split
from zoo.data.calibration import load_calibration
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

pytestmark = pytest.mark.gpu

CLOSE = {"cuda": 1e-4, "tensorrt": 5e-3}
"""How far probabilities in fp32 may be from the CPU's; TensorRT's engines may compute in TF32."""

SIZES = (1, 3, 64, 65)
"""Of batches: a bucket's own, and padded ones."""


def on(device: str, path: Path) -> AnySession:
    """Open a graph on a device; where that is not installed, skip the test and say so."""
    if DEVICES[device] not in onnxruntime.get_available_providers():
        pytest.skip(f"the installed ONNX Runtime has no {DEVICES[device]}")
    try:
        session = open_session(path, device=device)
    except UsageError as error:
        if device == "tensorrt":  # which is installed apart
            pytest.skip(f"TensorRT does not load: {error}")
        raise
    assert session.provider == DEVICES[device]
    return session


def check(said: Answer, wanted: Answer, close: float = CLOSE["cuda"]) -> None:
    np.testing.assert_allclose(said.probs, wanted.probs, atol=close)
    assert said.member_probs is not None
    assert wanted.member_probs is not None
    np.testing.assert_allclose(said.member_probs, wanted.member_probs, atol=close)
    assert (said.stage is None) == (wanted.stage is None)
    if said.stage is not None:
        np.testing.assert_array_equal(said.stage, wanted.stage)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_it_answers_as_pytorch_does(workshop: "Workshop", plain: Path, seen: Split, device: str) -> None:
    session = on(device, plain)
    probs, own, _ = torch_says(workshop.committee(), seen.images)
    for batch in (0, 1, 3, 48, 60):
        check(session.answer(seen.images[:batch]), Answer(probs[:batch], own[:batch]), CLOSE[device])
    session.warm_up((1, 64))
    check(session.answer(seen.images), Answer(probs, own), CLOSE[device])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_keep_the_gates_limits(place: Path, precision: str) -> None:
    """Of a trained network: on what an untrained one says, rounding decides."""
    split = load_split("cifar10", "test").subset(slice(2000))
    committee = Committee(tuple(parse_members("fastnet-seed1")), "flip")
    calibration = load_calibration("cifar10", images=128) if precision == "int8" else None
    order = order_of(committee, precision=precision, member_probs=True, calibration=calibration)
    path = export(order, place / "m.onnx").path
    there, here = on("cuda", path), Session(path, device="cpu")
    said = [here.answer(split.images[start : start + 500]) for start in range(0, len(split), 500)]
    probs = np.concatenate([one.probs for one in said])
    own = np.concatenate([one.member_probs for one in said if one.member_probs is not None])
    expected = Expected(probs, probs.argmax(1), None, own)
    parity = compare(there, expected, split, LIMITS[precision], dataset="cifar10", name="test")
    assert (parity.provider, parity.misses) == (CUDA, ())
    assert parity.accuracy > 0.9


def test_a_cascade_answers_as_on_the_cpu(workshop: "Workshop", seen: Split) -> None:
    folder = workshop.graph(workshop.cascade())
    session, here = on("cuda", folder), open_session(folder, device="cpu")
    assert isinstance(session, CascadeSession)
    wanted = here.answer(seen.images)
    assert wanted.stage is not None
    assert np.bincount(wanted.stage, minlength=3).min() > 5
    for _ in range(4):  # the first is recorded, the others are replayed
        check(session.answer(seen.images), wanted)
    for batch in (0, 1, 7):
        check(session.answer(seen.images[:batch]), here.answer(seen.images[:batch]))


def ask_together(
    sessions: Sequence[AnySession], batches: Sequence[npt.NDArray[np.uint8]], wanted: Sequence[Answer]
) -> None:
    """Ask from four threads, each in an order of its own, and see that each gets its own answers."""
    together = threading.Barrier(4)

    def ask(thread: int) -> None:
        order = np.random.default_rng(thread).permutation(np.repeat(np.arange(len(batches)), 8))
        together.wait()
        for turn, number in enumerate(order.tolist()):
            session = sessions[(turn + thread) % len(sessions)]
            check(session.answer(batches[number]), wanted[number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


def batches_of(sizes: Sequence[int], copies: int) -> list[npt.NDArray[np.uint8]]:
    """Return batches of each size, no two of the same images."""
    images = pictures(copies * sum(sizes), seed=5).images
    ends = np.cumsum(list(sizes) * copies)
    return [images[end - size : end] for end, size in zip(ends.tolist(), list(sizes) * copies, strict=True)]


def test_threads_get_their_own_answers(plain: Path) -> None:
    """From buffers that they share, padded with what was there before."""
    session, here = on("cuda", plain), Session(plain, device="cpu")
    batches = batches_of(SIZES, 3)
    wanted = [here.answer(batch) for batch in batches]
    firsts = np.stack([answer.probs[0] for answer in wanted])
    apart = np.abs(firsts[:, None] - firsts).max(-1)[~np.eye(len(firsts), dtype=bool)]
    assert apart.min() > 10 * CLOSE["cuda"], "another batch's answers would be noticed"
    ask_together([session], batches, wanted)


def test_sessions_in_one_process_do_not_disturb_each_other(workshop: "Workshop", plain: Path, seen: Split) -> None:
    """While a graph is recorded for one, CUDA refuses what others ask of it, loading included."""
    session = on("cuda", plain)
    batches = [seen.images[:size] for size in (1, 3, 17, 60)]
    wanted = [Session(plain, device="cpu").answer(batch) for batch in batches]
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(lambda: [on("cuda", plain) for _ in range(3)])
        ask_together([session], batches, wanted)
    ask_together([session, *loaded.result()], batches, wanted)
    folder = workshop.graph(workshop.cascade())
    here = open_session(folder, device="cpu")
    ask_together([on("cuda", folder)], batches, [here.answer(batch) for batch in batches])


def test_more_than_the_largest_batch(plain: Path) -> None:
    session, here = on("cuda", plain), Session(plain, device="cpu")
    images = np.concatenate([pictures(65, seed=seed).images for seed in range(LARGEST_BATCH // 65 + 2)])
    assert LARGEST_BATCH < len(images) < 2 * LARGEST_BATCH
    check(session.answer(images), here.answer(images))
    check(session.answer(images[:LARGEST_BATCH]), here.answer(images[:LARGEST_BATCH]))
