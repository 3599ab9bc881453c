"""`ensemble.load`: one module that says what the committee says."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import ensemble
from ensemble.fresh import fresh_ballots
from ensemble.lockfile import Committee, write_lockfile
from ensemble.members import Member
from ensemble.merge import MERGES, Merge, merge
from ensemble.module import Ensemble
from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CPU = torch.device("cpu")


def warmed(zoo: "Zoo", views: str, how: Merge, temperature: float) -> Committee:
    """Three members with weights and temperatures of their own."""
    committee = zoo.committee("tiny-a=2,tiny-b=0.5,tiny-c=1.5", views, how, temperature)
    heated = [replace(m, temperature=t) for m, t in zip(committee.members, (1.0, 0.2, 3.0), strict=True)]
    return replace(committee, members=tuple(heated))


@pytest.mark.parametrize("how", MERGES)
@pytest.mark.parametrize(("views", "temperature"), [("none", 1.0), ("flip", 0.3), ("flip+shift1", 2.5)])
def test_it_says_what_evaluation_says(zoo: "Zoo", how: Merge, views: str, temperature: float) -> None:
    committee = warmed(zoo, views, how, temperature)
    ballots = fresh_ballots(committee, zoo.split_source(), device=CPU)
    probs, top = merge(ballots.votes, how, temperature)
    images = torch.from_numpy(zoo.split.images[zoo.split.order])
    with torch.no_grad():
        verdict = Ensemble(committee).verdict(images)
    np.testing.assert_allclose(verdict.probs, probs, atol=2e-5)
    np.testing.assert_array_equal(verdict.top, top)
    own = [merge([vote], "logits" if how == "logits" else "probs")[0] for vote in ballots.votes]
    np.testing.assert_allclose(verdict.member_probs, own, atol=2e-5)
    weights = np.array([2, 0.5, 1.5]) / 4
    others = np.stack([p.argmax(1) for p in own]) != top
    np.testing.assert_allclose(verdict.disagreement, weights @ others, atol=1e-6)
    assert 0 < float(verdict.disagreement.mean()) < 1


def test_the_parts_on_request(zoo: "Zoo") -> None:
    net = Ensemble(zoo.committee("tiny-a,tiny-b=3", "flip"))
    images = torch.from_numpy(zoo.split.images[:4])
    with torch.no_grad():
        verdict = net.verdict(images)
        assert torch.equal(net(images), verdict.probs)
        assert torch.equal(net.member_probs(images), verdict.member_probs)
        assert torch.equal(net.disagreement(images), verdict.disagreement)


def test_uint8_and_floating_point_are_the_same_image(zoo: "Zoo") -> None:
    net = Ensemble(zoo.committee())
    pixels = torch.from_numpy(zoo.split.images[:3])
    planes = pixels.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for image in (planes, planes.contiguous(), planes.double(), planes.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(net(image), net(pixels), atol=1e-6, rtol=0)
        torch.testing.assert_close(net(planes.half()), net(pixels), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8 [2, 3, 32, 32]"),
        (torch.zeros(2, 32, 32, 3), "float32 [2, 32, 32, 3]"),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), "uint8 [32, 32, 3]"),
        (torch.zeros(2, 3, 16, 16), "float32 [2, 3, 16, 16]"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.int64), "int64 [2, 32, 32, 3]"),
    ],
)
def test_other_images_are_refused(zoo: "Zoo", images: torch.Tensor, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        Ensemble(zoo.committee())(images)
    assert str(raised.value).startswith(f"images are torch.{said}: give uint8 [N, 32, 32, 3] or floating point [N, 3,")


@pytest.mark.parametrize("images", [torch.rand(2, 3, 32, 32) * 255, torch.randn(2, 3, 32, 32)])
def test_floating_point_beyond_0_to_1_is_refused(zoo: "Zoo", images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"^images go from .*: give floating point in 0\.\.1, or uint8$"):
        Ensemble(zoo.committee())(images)


def test_an_array_is_refused(zoo: "Zoo") -> None:
    with pytest.raises(UsageError, match=r"^images are of type ndarray: give a tensor \(torch\.from_numpy\)$"):
        Ensemble(zoo.committee())(zoo.split.images[:2])


def test_it_can_be_sent_to_another_process(zoo: "Zoo") -> None:
    net = Ensemble(zoo.committee(views="flip+shift1"))
    images = torch.from_numpy(zoo.split.images[:2])
    other = pickle.loads(pickle.dumps(net))  # noqa: S301  # our own
    assert torch.equal(other(images), net(images))


def test_no_images_are_no_answers(zoo: "Zoo") -> None:
    with torch.no_grad():
        assert Ensemble(zoo.committee())(torch.zeros(0, 32, 32, 3, dtype=torch.uint8)).shape == (0, 10)


def test_a_traced_committee_takes_batches_of_any_size(zoo: "Zoo") -> None:
    net = Ensemble(zoo.committee("tiny-a,tiny-b", "flip"))
    images = torch.randint(256, (7, *net.input_size, 3), dtype=torch.uint8)
    traced = torch.export.export(net, (images[:3],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},))
    for batch in (1, 2, 7):
        torch.testing.assert_close(traced.module()(images[:batch]), net(images[:batch]))


def test_it_is_a_module(zoo: "Zoo", tmp_path: Path) -> None:
    net = Ensemble(zoo.committee("tiny-a,tiny-b", "flip"))
    assert not any(module.training for module in net.modules())
    assert (net.classes, net.input_size) == (zoo.split.classes, (32, 32))
    assert "views=['none', 'flip'], merge='probs'" in repr(net)
    images = torch.from_numpy(zoo.split.images[:2])
    with torch.no_grad():
        before = net(images)
        torch.save(net.state_dict(), tmp_path / "state.pt")
        other = Ensemble(zoo.committee("tiny-b,tiny-c=2", "flip"))
        assert not torch.allclose(other(images), before)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(other(images), before)
        torch.testing.assert_close(net.double()(images).float(), before, atol=1e-5, rtol=0)
        torch.testing.assert_close(net.bfloat16()(images).float(), before, atol=0.05, rtol=0)
    assert isinstance(net, nn.Module)


def test_huge_weights(zoo: "Zoo") -> None:
    net = Ensemble(zoo.committee("tiny-a=1e300,tiny-b=1e300"))
    assert net.weights.tolist() == [0.5, 0.5]


def test_load_by_lockfile_and_by_names(zoo: "Zoo", tmp_path: Path) -> None:
    write_lockfile(
        tmp_path / "e.json", zoo.committee("tiny-a,tiny-b=2", "flip", "logits", 1.5), fitted_on=None, metrics={}
    )
    images = torch.from_numpy(zoo.split.images[:5])
    with torch.no_grad():
        locked = ensemble.load(tmp_path / "e.json")(images)
        assert torch.equal(ensemble.load(str(tmp_path / "e.json"))(images), locked)
        assert torch.equal(Ensemble(zoo.committee("tiny-a,tiny-b=2", "flip", "logits", 1.5))(images), locked)
        named = ensemble.load("tiny-[ab]", views="flip", merge="vote")
        assert torch.equal(named(images), Ensemble(zoo.committee("tiny-a,tiny-b", "flip", "vote"))(images))


def test_what_load_refuses(zoo: "Zoo", tmp_path: Path) -> None:
    write_lockfile(tmp_path / "e.json", zoo.committee(), fitted_on=None, metrics={})
    with pytest.raises(UsageError, match="has its own views and merge: leave them out"):
        ensemble.load(tmp_path / "e.json", views="flip")
    with pytest.raises(UsageError, match="unknown merge 'mean'; there are probs, logits, vote"):
        ensemble.load("tiny-a", merge="mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"list: give the path of an ensemble\.json, or members in one string"):
        ensemble.load(["tiny-a"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown view set 'flop'"):
        ensemble.load("tiny-a", views="flop")
    with pytest.raises(NotFoundError, match="no entry 'tiny-x'"):
        ensemble.load("tiny-x")
    np.savez(tmp_path / "theirs.npz", probs=np.full((60, 10), 0.1), labels=zoo.split.labels)
    with pytest.raises(UsageError, match=r"theirs\.npz has predictions only: it cannot classify new images"):
        ensemble.load(f"tiny-a,{tmp_path / 'theirs.npz'}")


def test_members_that_do_not_fit_together(zoo: "Zoo", make_entry: Callable[..., Entry], tmp_path: Path) -> None:
    other = make_entry(tmp_path / "other", "other", splits={}, classes=tuple("abcdefghij"))
    members = (*zoo.committee("tiny-a").members, Member("other", other))
    with pytest.raises(DataError, match="'other' has other classes or images of another size than 'tiny-a'"):
        Ensemble(Committee(members))


def test_import_is_light() -> None:
    code = "import sys, ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
