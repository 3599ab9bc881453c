"""Cascades of stage graphs answer as PyTorch's cascade does, and stages that do not belong together are refused."""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

import ensemble
from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.lockfile import Committee, write_lockfile
from ensemble.members import parse_members
from ensemble.module import Ensemble
from export.metadata import ENSEMBLE_KEY
from export.pipeline import export
from export.runtime import CascadeSession, Session, open_session
from export.runtime.answer import Floats
from tests.export.conftest import EXACT, order_of
from zoo.data import Split, load_split
from zoo.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


@pytest.fixture
def folder(workshop: "Workshop") -> Path:
    """Three stage graphs; to be copied by whoever changes them."""
    return workshop.graph(workshop.cascade())


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@torch.inference_mode()
def expected(committee: Committee, images: Any) -> tuple[Floats, npt.NDArray[np.intp], Floats]:  # noqa: ANN401
    """Return PyTorch's probabilities, stages, and members' own over the views under which each is asked last."""
    whole, pixels = Ensemble(committee), torch.from_numpy(images)
    exits = Cascade(whole, committee).exits(pixels)
    own = np.full((len(pixels), len(committee.members), 10), np.nan, np.float32)
    names = [member.name for member in committee.members]
    for number, stage in enumerate(committee.cascade):
        asked = replace(committee, views=stage.views, cascade=())
        said = Ensemble(asked).member_probs(pixels).transpose(0, 1).numpy()
        rows = np.flatnonzero(exits.stage.numpy() >= number)
        members = np.array([names.index(name) for name in stage.members])
        own[np.ix_(rows, members)] = said[np.ix_(rows, members)]
    return exits.probs.numpy(), exits.stage.numpy(), own


def test_it_answers_as_pytorch_does(workshop: "Workshop", folder: Path, seen: Split) -> None:
    committee = workshop.cascade()
    session = open_session(folder, device="cpu")
    assert isinstance(session, CascadeSession)
    said = session.answer(seen.images)
    probs, stage, own = expected(committee, seen.images)
    assert np.bincount(stage, minlength=3).min() > 5
    np.testing.assert_array_equal(said.stage, stage)
    np.testing.assert_allclose(said.probs, probs, atol=EXACT)
    assert said.member_probs is not None
    np.testing.assert_allclose(said.member_probs, own, atol=EXACT)
    assert np.isnan(own[stage == 0][:, :2]).all(), "who is not asked says nothing"
    np.testing.assert_array_equal(session.run(seen.images), said.probs)
    assert said.probs.dtype == np.float32


def test_and_with_another_merge(workshop: "Workshop", copied: Path, seen: Split) -> None:
    """Stages give log-probabilities whatever the merge, which is done with what the lockfile says."""
    committee = replace(workshop.cascade(), merge="logits")
    relock(0, lambda table: table.update(merge="logits"))(copied)
    said = CascadeSession(copied, device="cpu").answer(seen.images)
    probs, stage, _ = expected(committee, seen.images)
    assert np.bincount(stage, minlength=3).min() > 3
    np.testing.assert_array_equal(said.stage, stage)
    np.testing.assert_allclose(said.probs, probs, atol=EXACT)


def test_stages_are_run_on_what_is_left(folder: Path, seen: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    real = Session.outputs

    def spy(self: Session, images: npt.NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        asked.append((self.about.stage or 0, len(images)))
        return real(self, images, names)

    session = CascadeSession(folder, device="cpu")
    stage = session.answer(seen.images).stage
    assert stage is not None
    monkeypatch.setattr(Session, "outputs", spy)
    session.answer(seen.images)
    first, second, third = np.bincount(stage).tolist()
    assert asked == [(1, 60), (2, 60 - first), (3, third)]
    assert second > 0
    asked.clear()
    session.answer(seen.images[stage == 0])
    assert asked == [(1, first)], "nobody is left"
    asked.clear()
    session.warm_up((1, 4))
    assert asked == [(1, 1), (1, 4), (2, 1), (2, 4), (3, 1), (3, 4)]


def test_no_images(folder: Path) -> None:
    said = CascadeSession(folder, device="cpu").answer(np.zeros((0, 32, 32, 3), np.uint8))
    assert said.member_probs is not None
    assert said.stage is not None
    assert (said.probs.shape, said.member_probs.shape, said.stage.shape) == ((0, 10), (0, 3, 10), (0,))


def test_one_at_a_time(folder: Path, seen: Split) -> None:
    session = CascadeSession(folder, device="cpu")
    together = session.answer(seen.images)
    alone = [session.answer(image[None]) for image in seen.images]
    np.testing.assert_array_equal(np.concatenate([one.stage for one in alone]), together.stage)
    np.testing.assert_allclose(np.concatenate([one.probs for one in alone]), together.probs, atol=EXACT)


def test_many_threads_get_the_same_answers(folder: Path, seen: Split) -> None:
    session = CascadeSession(folder, device="cpu")
    parts = [seen.images[start : start + 1 + start % 9] for start in range(0, 50, 3)]
    wanted = [session.answer(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for found, one in zip(pool.map(session.answer, parts * 8), wanted * 8, strict=True):
            np.testing.assert_array_equal(found.stage, one.stage)
            np.testing.assert_array_equal(found.probs, one.probs)
            np.testing.assert_array_equal(found.member_probs, one.member_probs)


def test_what_it_knows(workshop: "Workshop", folder: Path, copied: Path) -> None:
    session = CascadeSession(str(folder), device="cpu", threads=1, spin=False)
    names = tuple(member.name for member in workshop.cascade().members)
    assert (session.members, session.path, session.input_size) == (names, folder, (32, 32))
    assert (session.precision, session.provider, session.has_members) == ("fp32", "CPUExecutionProvider", True)
    assert session.classes == session.sessions[0].classes
    assert len(session.lockfile["cascade"]) == len(session.sessions) == 3
    other = onnx.load(copied / "stage2.onnx")
    other.producer_name = "somebody else"
    onnx.save(other, copied / "stage2.onnx")
    assert CascadeSession(copied, device="cpu").sha256 != session.sha256 == CascadeSession(folder, device="cpu").sha256
    with pytest.raises(UsageError, match=r"^images are float64 \[1\]: give a uint8 array \[N, 32, 32, 3\]$"):
        session.run(np.zeros(1))  # type: ignore[arg-type]


def swap(folder: Path) -> None:
    (folder / "stage1.onnx").rename(folder / "s")
    (folder / "stage2.onnx").rename(folder / "stage1.onnx")
    (folder / "s").rename(folder / "stage2.onnx")


def without_the_last(folder: Path) -> None:
    (folder / "stage3.onnx").unlink()


def one_more(folder: Path) -> None:
    shutil.copy(folder / "stage3.onnx", folder / "stage4.onnx")


def relock(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the lockfile that a stage says it is of; number 0 is for all of them."""

    def relocked(folder: Path) -> None:
        for file in [folder / f"stage{number}.onnx"] if number else folder.iterdir():
            model = onnx.load(file)
            (prop,) = (prop for prop in model.metadata_props if prop.key == ENSEMBLE_KEY)
            table = json.loads(prop.value)
            change(table)
            prop.value = json.dumps(table)
            onnx.save(model, file)

    return relocked


@pytest.mark.parametrize("change", [swap, without_the_last, one_more, relock(2, lambda t: t.update(temperature=0.71))])
def test_stages_that_do_not_belong_together(copied: Path, change: Callable[[Path], None]) -> None:
    change(copied)
    with pytest.raises(CorruptError) as no:
        CascadeSession(copied, device="cpu")
    assert str(no.value) == f"{copied} does not have the stage graphs of one cascade: export it again"


def test_stages_of_several_precisions(copied: Path) -> None:
    other = onnx.load(copied / "stage2.onnx")
    for prop in other.metadata_props:
        prop.value = prop.value.replace('"precision": "fp32"', '"precision": "fp16"')
    onnx.save(other, copied / "stage2.onnx")
    with pytest.raises(CorruptError, match="does not have the stage graphs of one cascade"):
        open_session(copied, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["cascade"][0].pop("threshold"),
        lambda t: t["cascade"][0].update(members=["nobody"]),
        lambda t: t["cascade"][1].update(views="flop"),
        lambda t: t["cascade"][1].update(temperature=0),
        lambda t: t["cascade"].__setitem__(1, "stage"),
        lambda t: t.pop("temperature"),
        lambda t: t.update(merge="vote"),
        lambda t: t["members"][0].pop("weight"),
        lambda t: t["members"][0].update(weight="much"),
        lambda t: t["members"][0].update(weight=0),
    ],
)
def test_lockfiles_that_say_nothing_sensible(copied: Path, change: Callable[[dict[str, Any]], object]) -> None:
    relock(0, change)(copied)
    with pytest.raises(CorruptError) as no:
        CascadeSession(copied, device="cpu")
    assert str(no.value).startswith(f"{copied} ")
    assert str(no.value).endswith(": export it again")


def test_stages_without_temperatures(copied: Path, seen: Split) -> None:
    """A lockfile may leave them out: they are 1 then, and the ensemble's in the last stage."""
    before = CascadeSession(copied, device="cpu")
    relock(0, lambda t: [stage.pop("temperature") for stage in t["cascade"]])(copied)
    after = CascadeSession(copied, device="cpu")
    assert [step.temperature for step in before.steps] == [0.8, 0.6, 0.7]
    assert [step.temperature for step in after.steps] == [1, 1, 0.7]
    assert after.answer(seen.images).probs.shape == (60, 10)


def test_folders_without_stages(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"empty has no stage1\.onnx: give a folder that `ensemble export` wrote$"):
        open_session(tmp_path / "empty", device="cpu")
    with pytest.raises(NotFoundError, match=r"other has no stage1\.onnx"):
        CascadeSession(tmp_path / "other", device="cpu")
    (tmp_path / "wrong").mkdir()
    shutil.copy(plain, tmp_path / "wrong" / "stage1.onnx")
    with pytest.raises(CorruptError, match="wrong does not have the stage graphs of one cascade"):
        open_session(tmp_path / "wrong", device="cpu")


def test_a_cascade_of_real_networks(tmp_path: Path) -> None:
    split = load_split("cifar10", "test").subset(slice(120))
    plain = Committee(tuple(parse_members("fastnet-seed1,fastnet-seed2")), "flip")
    first = Stage(("fastnet-seed2",), "none", 0.4, 0.95)
    committee = replace(plain, cascade=(first, Stage(("fastnet-seed1", "fastnet-seed2"), "flip", 1.0, 0.0)))
    write_lockfile(tmp_path / "cascade.json", committee, fitted_on=None, metrics={})
    made = export(order_of(committee), tmp_path / "cascade")
    said = CascadeSession(made.path, device="cpu").answer(split.images)
    loaded = ensemble.load(tmp_path / "cascade.json")
    assert isinstance(loaded, Cascade)
    with torch.inference_mode():
        exits = loaded.exits(torch.from_numpy(split.images))
    np.testing.assert_array_equal(said.stage, exits.stage)
    np.testing.assert_allclose(said.probs, exits.probs, atol=EXACT)
    assert said.stage is not None
    assert 0.5 < (said.stage == 0).mean() < 0.95
    assert (said.probs.argmax(1) == split.labels).mean() > 0.9
