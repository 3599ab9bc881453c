"""Sessions on a provider that no test machine needs: how they would ask it, and where it would keep its engines."""

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from ensemble.lockfile import Committee
from export.devices import TENSORRT
from export.runtime import Session, bound, session
from export.runtime.answer import Floats
from export.runtime.providers import Placement, placement
from zoo import store
from zoo.data import Split

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run on the CPU whatever is asked for, and return where engines would be kept."""
    found: list[Path] = []

    def place(_: str | None, *, cache: Path, **more: Any) -> Placement:  # noqa: ANN401
        found.append(cache)
        return placement("cpu", cache=cache, **more)

    monkeypatch.setattr(session, "placement", place)
    return found


def test_each_graph_has_engines_of_its_own(
    workshop: "Workshop", plain: Path, one: Committee, tmp_path: Path, caches: list[Path]
) -> None:
    """What ONNX Runtime calls an engine is the same for other weights."""
    other = workshop.graph(one)
    copied = Path(shutil.copy(plain, tmp_path / "copied.onnx"))
    sums = [Session(path, device="tensorrt").sha256 for path in (plain, other, copied)]
    assert caches == [store.home() / "tensorrt" / digest for digest in sums]
    assert sums[0] == sums[2] != sums[1]


@pytest.mark.usefixtures("caches")
def test_and_nothing_else_waits_for_digests(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(_: Path) -> str:
        raise AssertionError("read all of a graph that runs on a CPU")

    monkeypatch.setattr(session, "sha256_file", digest)
    for device in (None, "cpu", "cuda"):
        Session(plain, device=device)


class Asked:
    """ONNX Runtime's session, as one on TensorRT; it notes how many images come from which thread."""

    batches: list[tuple[int, str]]

    def __init__(self, real: Any) -> None:  # noqa: ANN401
        self.real, self.batches = real, []

    def get_providers(self) -> list[str]:
        return [TENSORRT]

    def get_outputs(self) -> Any:  # noqa: ANN401
        return self.real.get_outputs()

    def run(self, names: list[str], feed: dict[str, npt.NDArray[np.uint8]]) -> list[Floats]:
        self.batches.append((len(feed["images"]), threading.current_thread().name))
        answer: list[Floats] = self.real.run(names, feed)
        return answer


@pytest.fixture
def tensorrt(plain: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Session, Asked]:
    """A session on TensorRT, whose largest batch is of 25 images."""
    made: list[Asked] = []
    real: Any = onnxruntime.InferenceSession

    def make(path: str, options: Any, **_: object) -> Asked:  # noqa: ANN401
        made.append(Asked(real(path, options, providers=["CPUExecutionProvider"])))
        return made[-1]

    monkeypatch.setattr(session, "placement", lambda *_, **__: Placement("tensorrt", ((TENSORRT, {}),), {}))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(bound, "LARGEST_BATCH", 25)
    return Session(plain, device="tensorrt"), made[0]


def test_no_more_than_engines_are_made_for_and_from_one_thread(
    plain: Path, seen: Split, tensorrt: tuple[Session, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, asked = tensorrt
    said = there.answer(seen.images)
    assert len(there.run(seen.images[:0])) == 0
    there.warm_up([26])
    sizes, threads = zip(*asked.batches, strict=True)
    assert sizes == (25, 25, 10, 1, 25, 1)
    assert set(threads) == {"gpu_0"}
    monkeypatch.undo()
    wanted = Session(plain, device="cpu").answer(seen.images)
    np.testing.assert_allclose(said.probs, wanted.probs, atol=1e-6)
    assert said.member_probs is not None
    assert wanted.member_probs is not None
    np.testing.assert_allclose(said.member_probs, wanted.member_probs, atol=1e-6)
