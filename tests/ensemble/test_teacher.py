"""A committee as a teacher: it says what the committee says, to whoever may hear it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.frozen import freeze
from ensemble.lockfile import Committee, read_provenance, write_lockfile
from ensemble.members import Member
from ensemble.merge import Merge
from ensemble.module import Ensemble
from ensemble.teacher import CommitteeTeacher, entries_of, is_mirror_symmetric, teacher_record
from tta.freeze import Setting
from tta.views import VIEW_SETS, View, identity, shift, view_set
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


def seen_by_a_student(planes: torch.Tensor) -> torch.Tensor:
    return (planes - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def planes(zoo: "Zoo") -> torch.Tensor:
    return torch.from_numpy(zoo.split.images[:7]).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("how", ["probs", "logits"])
@pytest.mark.parametrize(("views", "temperature"), [("none", 1.0), ("flip", 0.4)])
def test_it_says_the_log_of_what_the_committee_says(
    zoo: "Zoo", planes: torch.Tensor, how: Merge, views: str, temperature: float
) -> None:
    committee = zoo.committee("tiny-a=2,tiny-b", views, how, temperature)
    members = [replace(m, temperature=t) for m, t in zip(committee.members, (0.5, 2.0), strict=True)]
    net = Ensemble(replace(committee, members=tuple(members)))
    with torch.no_grad():
        said = CommitteeTeacher(net, MEAN, STD)(seen_by_a_student(planes))
        torch.testing.assert_close(said.exp(), net(planes), atol=2e-5, rtol=1e-4)
        assert said.dtype == torch.float32


def test_the_students_precision_is_not_the_teachers(zoo: "Zoo", planes: torch.Tensor) -> None:
    teacher = CommitteeTeacher(freeze(Ensemble(zoo.committee()), Setting(torch.device("cpu"))), MEAN, STD)
    images = seen_by_a_student(planes)
    with torch.no_grad():
        expected = teacher(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(teacher(images), expected)


def test_what_is_impossible_stays_finite(zoo: "Zoo", planes: torch.Tensor) -> None:
    committee = zoo.committee("tiny-a")
    cold = replace(committee, members=(replace(committee.members[0], temperature=1e-4),))
    with torch.no_grad():
        said = CommitteeTeacher(Ensemble(cold), MEAN, STD)(seen_by_a_student(planes))
    assert bool(said.isfinite().all())
    assert float(said.min()) == pytest.approx(math.log(1e-12), rel=1e-3)


def test_a_vote_teaches_nothing_soft(zoo: "Zoo") -> None:
    with pytest.raises(UsageError, match="votes has no soft answers"):
        CommitteeTeacher(Ensemble(zoo.committee(merge="vote")), MEAN, STD)


@pytest.mark.parametrize("name", VIEW_SETS)
def test_mirror_symmetry_is_that_of_the_answers(zoo: "Zoo", planes: torch.Tensor, name: str) -> None:
    teacher = CommitteeTeacher(Ensemble(zoo.committee(views=name)), MEAN, STD)
    images = seen_by_a_student(planes)
    with torch.no_grad():
        same = torch.allclose(teacher(images), teacher(images.flip(3)), atol=1e-4)
    assert is_mirror_symmetric(view_set(name)) is same


def test_mirror_symmetry_looks_at_weights() -> None:
    def flipped(image: torch.Tensor) -> torch.Tensor:
        return image.flip(3)

    def down(image: torch.Tensor) -> torch.Tensor:
        return shift(image, 1, 0)

    plain, mirror = View("none", identity, 0.6), View("flip", flipped, 0.6)
    assert is_mirror_symmetric([plain, mirror])
    assert not is_mirror_symmetric([plain, replace(mirror, weight=0.4)])
    assert not is_mirror_symmetric([plain, mirror, View("down", down, 0.6)])


def test_the_record_names_members_by_their_weights(zoo: "Zoo", tmp_path: Path) -> None:
    committee = zoo.committee("tiny-a=2,tiny-b", "flip", "logits", 0.7)
    fitted = {"split": "val", "fingerprint": "1" * 64, "images": 10, "objective": "nll"}
    path = tmp_path / "ensemble.json"
    write_lockfile(path, committee, fitted_on=fitted, metrics={})
    assert read_provenance(path) == fitted
    record = teacher_record(committee, read_provenance(path))
    locked = json.loads(path.read_text())
    assert record == {key: locked[key] for key in ("members", "views", "merge", "temperature", "fitted_on")}
    assert teacher_record(committee, None)["fitted_on"] is None


def test_who_cannot_teach(zoo: "Zoo", tmp_path: Path) -> None:
    file = Committee((Member("theirs.npz", tmp_path / "theirs.npz"),))
    for ask in (entries_of, lambda committee: teacher_record(committee, None)):
        with pytest.raises(UsageError, match=r"^'theirs\.npz' cannot teach: it has predictions only"):
            ask(file)
    with pytest.raises(UsageError, match=r"^a committee that votes has no soft answers to teach"):
        teacher_record(zoo.committee("tiny-a", merge="vote"), None)
