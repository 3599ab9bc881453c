"""Sessions: what they answer, what they refuse, and that many may ask at once."""

import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ensemble.lockfile import Committee
from export.metadata import About, metadata_props
from export.runtime import Answer, Session, open_session
from export.runtime.providers import Placement, placement
from tests.export.conftest import EXACT, table_of, torch_says
from zoo.data import Split
from zoo.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


def test_what_it_knows_of_the_graph(workshop: "Workshop", plain: Path) -> None:
    session = open_session(plain, device="cpu")
    assert isinstance(session, Session)
    table = table_of(workshop.committee())
    assert (session.path, session.lockfile) == (plain, table)
    assert (session.classes, session.members) == (tuple(table["classes"]), ("tiny-a", "tiny-b"))
    assert (session.input_size, session.precision, session.has_members) == ((32, 32), "fp32", True)
    assert session.provider == "CPUExecutionProvider"
    assert session.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert open_session(str(plain), device="cpu").path == plain


def test_what_it_answers(workshop: "Workshop", plain: Path, seen: Split) -> None:
    session = Session(plain, device="cpu")
    probs, own, _ = torch_says(workshop.committee(), seen.images)
    said = session.answer(seen.images)
    assert isinstance(said, Answer)
    assert said.stage is None
    np.testing.assert_allclose(said.probs, probs, atol=EXACT)
    assert said.member_probs is not None
    np.testing.assert_allclose(said.member_probs, own, atol=EXACT)
    np.testing.assert_array_equal(session.run(seen.images), said.probs)
    assert (str(said.probs.dtype), said.probs.shape) == ("float32", (60, 10))


def test_without_members(workshop: "Workshop", one: Committee, seen: Split) -> None:
    session = Session(workshop.graph(one), device="cpu")
    assert not session.has_members
    said = session.answer(seen.images)
    assert said.member_probs is None
    np.testing.assert_allclose(said.probs, torch_says(one, seen.images)[0], atol=EXACT)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches_of_any_size(plain: Path, seen: Split, batch: int) -> None:
    session = Session(plain, device="cpu")
    said = session.answer(seen.images[:batch])
    assert said.member_probs is not None
    assert (said.probs.shape, said.member_probs.shape) == ((batch, 10), (batch, 2, 10))
    assert said.probs.dtype == said.member_probs.dtype == np.float32
    np.testing.assert_allclose(said.probs, session.run(seen.images)[:batch], atol=EXACT)


def test_pixels_may_lie_in_memory_in_any_way(plain: Path, seen: Split) -> None:
    session = Session(plain, device="cpu")
    wanted = session.run(seen.images)
    np.testing.assert_array_equal(session.run(np.asfortranarray(seen.images)), wanted)
    np.testing.assert_allclose(session.run(seen.images[::-2]), wanted[::-2], atol=EXACT)
    kept = seen.images.copy()
    kept.setflags(write=False)
    np.testing.assert_array_equal(session.run(kept), wanted)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "float32 [2, 32, 32, 3]"),
        (np.zeros((2, 32, 32, 3), np.int64), "int64 [2, 32, 32, 3]"),
        (np.zeros((2, 3, 32, 32), np.uint8), "uint8 [2, 3, 32, 32]"),
        (np.zeros((2, 16, 16, 3), np.uint8), "uint8 [2, 16, 16, 3]"),
        (np.zeros((32, 32, 3), np.uint8), "uint8 [32, 32, 3]"),
        (np.zeros((2, 32, 32, 4), np.uint8), "uint8 [2, 32, 32, 4]"),
        (np.zeros((), np.uint8), "uint8 []"),
        ([[0]], "list"),
        (None, "NoneType"),
    ],
)
def test_other_images_are_refused(plain: Path, images: Any, got: str) -> None:  # noqa: ANN401
    session = Session(plain, device="cpu")
    for call in (session.run, session.answer):
        with pytest.raises(UsageError) as no:
            call(images)
        assert str(no.value) == f"images are {got}: give a uint8 array [N, 32, 32, 3]"


def test_many_threads_get_the_same_answers(plain: Path, seen: Split) -> None:
    session = Session(plain, device="cpu", threads=2)
    parts = [seen.images[start : start + 1 + start % 7] for start in range(40)]
    wanted = [session.answer(part) for part in parts]
    together = threading.Barrier(8)

    def ask(_: int) -> list[Answer]:
        together.wait()
        return [session.answer(part) for part in parts]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask, range(8)):
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one.probs, other.probs)
                np.testing.assert_array_equal(one.member_probs, other.member_probs)


def test_the_calling_threads_arithmetic_stays_as_it_is(plain: Path, seen: Split) -> None:
    """Flushing numbers below the normal range to zero would go on for whatever the thread computes next."""
    found = []

    def work() -> None:
        open_session(plain, device="cpu").run(seen.images[:2])
        found.append(float(np.float64(1e-310) / np.float64(2)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [5e-311]


def test_warm_up_runs_batches_of_these_sizes(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, sizes = Session(plain, device="cpu"), list[int]()
    monkeypatch.setattr(session, "run", lambda images: sizes.append(len(images)))
    session.warm_up((1, 8))
    session.warm_up()
    assert sizes == [1, 8, 1, 64]
    for batch in (-1, 0):
        with pytest.raises(UsageError, match=f"^a batch of {batch} images: give sizes from 1$"):
            session.warm_up([batch])


def test_threads_and_spinning_are_passed_on(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_options: list[Any] = []
    real = onnxruntime.InferenceSession

    def spy(path: str, options: Any, **more: Any) -> Any:  # noqa: ANN401
        seen_options.append(
            (options.intra_op_num_threads, options.get_session_config_entry("session.intra_op.allow_spinning"))
        )
        return real(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Session(plain, device="cpu", threads=3, spin=False)
    Session(plain, device="cpu", threads=1)
    assert seen_options == [(3, "0"), (1, "1")]
    with pytest.raises(UsageError, match=r"^threads 0: give a number from 1$"):
        Session(plain, device="cpu", threads=0)


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "m.onnx", tmp_path / "folder" / "m.onnx"):
        with pytest.raises(NotFoundError, match=r"m\.onnx' is not a file: give a graph that `ensemble export` wrote$"):
            open_session(path, device="cpu")


@pytest.mark.parametrize("content", [b"\x08", b"not a graph at all", b"\xff" * 99, b"PK\x03\x04"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CorruptError, match=r"m\.onnx (is not an ONNX graph|was not exported by)"):
        Session(tmp_path / "m.onnx", device="cpu")


def test_a_graph_that_is_not_ours(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    model = onnx.load(plain)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    said = {"empty.onnx": "is not an ONNX graph", "bare.onnx": "was not exported by `ensemble export`"}
    for name, text in said.items():
        with pytest.raises(CorruptError, match=f"{name} {text}"):
            Session(tmp_path / name, device="cpu")


def test_a_graph_cut_short(plain: Path, tmp_path: Path) -> None:
    content = plain.read_bytes()
    for keep in (0.3, 0.9, 0.999):
        (tmp_path / "m.onnx").write_bytes(content[: int(keep * len(content))])
        with pytest.raises(CorruptError):
            Session(tmp_path / "m.onnx", device="cpu")


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"


def rename_output(model: onnx.ModelProto) -> None:
    last = next(node for node in model.graph.node if node.output[0] == "probs")
    model.graph.output[0].name = last.output[0] = "classes"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Wonder"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (rename_input, "does not take `images` and give `probs`"),
        (rename_output, "does not take `images` and give `probs`"),
        (unknown_operator, "cannot be run by ONNX Runtime: "),
    ],
)
def test_a_graph_that_does_something_else(
    workshop: "Workshop", one: Committee, tmp_path: Path, change: Callable[[onnx.ModelProto], None], text: str
) -> None:
    model = workshop.model(one)
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CorruptError) as no:
        Session(tmp_path / "m.onnx", device="cpu")
    assert str(no.value).startswith(f"{tmp_path / 'm.onnx'} {text}")
    assert "\n" not in str(no.value)


def test_another_provider_than_asked_for(
    plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    def place(_device: str | None, **more: Any) -> Any:  # noqa: ANN401
        """Ask for a GPU that ONNX Runtime then does without, as it does when CUDA's libraries are missing."""
        cpu = placement("cpu", **more)
        return Placement("cuda", (("CUDAExecutionProvider", {}),), cpu.config)

    monkeypatch.setattr("export.runtime.session.placement", place)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    real_session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **_: real_session(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(UsageError) as no:
        Session(plain, device="cuda")
    assert str(no.value) == (
        f"{plain} would run on CPUExecutionProvider instead of cuda: `ensemble doctor` says what is wrong; "
        "device cpu, or allow_cpu, runs the graph on the CPU"
    )
    with caplog.at_level(logging.WARNING):
        assert Session(plain, device="cuda", allow_cpu=True).provider == "CPUExecutionProvider"
    assert caplog.messages == [f"{plain} runs on CPUExecutionProvider instead of cuda"]


def test_a_stage_graph_alone_is_refused(workshop: "Workshop") -> None:
    path = workshop.graph(workshop.cascade()) / "stage2.onnx"
    alone = r"stage2\.onnx is stage 2 of a cascade: give its folder$"
    with pytest.raises(UsageError, match=alone):
        open_session(path, device="cpu")
    session, images = Session(path, device="cpu"), np.zeros((2, 32, 32, 3), np.uint8)
    for ask in (session.run, session.answer):
        with pytest.raises(UsageError, match=alone):
            ask(images)
    with pytest.raises(UsageError, match=alone):
        session.warm_up()
    assert len(session.outputs(images, ["log_probs"])[0]) == 2


def test_a_graph_that_is_no_stage_gives_probabilities(workshop: "Workshop", one: Committee, tmp_path: Path) -> None:
    model = onnx.load(workshop.graph(workshop.cascade()) / "stage1.onnx")
    del model.metadata_props[:]
    for key, value in metadata_props(About(table_of(one), "fp32", 18)).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CorruptError, match=r"m\.onnx does not take `images` and give `probs`"):
        Session(tmp_path / "m.onnx", device="cpu")
