"""The cascade that runs: the answers of stored predictions, and no network more than needed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ensemble
from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.cascade.stored import Exits, stored_exits
from ensemble.evaluate import Ballots
from ensemble.fresh import fresh_ballots, fresh_exits, load_whole
from ensemble.lockfile import Committee, write_lockfile
from ensemble.merge import Merge, merge
from ensemble.module import Ensemble
from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CPU = torch.device("cpu")


def staged(zoo: "Zoo", how: Merge = "probs") -> tuple[Committee, Ballots]:
    """Three members that differ, stages at which a third of the images leave each, and what members say."""
    plain = zoo.committee("tiny-a=2,tiny-b=0.5,tiny-c=1.5", "flip", how, 0.6)
    warm = tuple(replace(m, temperature=t) for m, t in zip(plain.members, (0.5, 0.1, 0.3), strict=True))
    plain = replace(plain, members=warm)
    ballots = fresh_ballots(plain, zoo.split_source(), device=CPU)

    def cut(names: tuple[str, ...], temperature: float, share: float) -> float:
        """A threshold far from the confidence of any image."""
        trial = (Stage(names, "none", temperature, 1e-9), Stage(("tiny-a", "tiny-b", "tiny-c"), "flip", 0.6, 0.0))
        sure = np.sort(stored_exits(replace(plain, cascade=trial), ballots.votes).probs.max(1))
        near = slice(int(share * len(sure)) - 5, int(share * len(sure)) + 5)
        gap = int(np.diff(sure[near]).argmax()) + near.start
        return float(sure[gap] + sure[gap + 1]) / 2

    cascade = (
        Stage(("tiny-c",), "none", 0.7, cut(("tiny-c",), 0.7, 0.6)),
        Stage(("tiny-c", "tiny-a"), "none", 0.8, cut(("tiny-c", "tiny-a"), 0.8, 0.5)),
        Stage(("tiny-c", "tiny-a", "tiny-b"), "flip", 0.6, 0.0),
    )
    return replace(plain, cascade=cascade), ballots


def images_of(zoo: "Zoo") -> torch.Tensor:
    return torch.from_numpy(zoo.split.images[zoo.split.order])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """What networks ran: (images, members, views) of each call."""
    done: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []
    original = Ensemble.log_probs

    def spy(self: Ensemble, planes: torch.Tensor, members: Sequence[int], views: Sequence[int]) -> torch.Tensor:
        done.append((len(planes), tuple(members), tuple(views)))
        return original(self, planes, members, views)

    monkeypatch.setattr(Ensemble, "log_probs", spy)
    return done


@pytest.mark.parametrize("how", ["probs", "logits"])
def test_it_answers_as_stored_predictions_do(zoo: "Zoo", how: Merge) -> None:
    committee, ballots = staged(zoo, how)
    wanted = stored_exits(committee, ballots.votes)
    assert np.bincount(wanted.stage).min() > 5
    cascade = Cascade(Ensemble(committee), committee)
    with torch.no_grad():
        found = cascade.exits(images_of(zoo))
    np.testing.assert_array_equal(found.stage, wanted.stage)
    np.testing.assert_allclose(found.probs, wanted.probs, atol=2e-5)
    np.testing.assert_array_equal(found.top, wanted.top)


def test_only_what_is_left_runs_and_nothing_twice(
    zoo: "Zoo", runs: list[tuple[int, tuple[int, ...], tuple[int, ...]]]
) -> None:
    committee, ballots = staged(zoo)
    first, second, _ = np.bincount(stored_exits(committee, ballots.votes).stage).tolist()
    with torch.no_grad():
        Cascade(Ensemble(committee), committee)(images_of(zoo))
    rest = 60 - first - second
    assert runs == [(60, (2,), (0,)), (60 - first, (0,), (0,)), (rest, (1,), (0, 1)), (rest, (0, 2), (1,))]


def test_a_batch_of_sure_images_needs_one_network(
    zoo: "Zoo", runs: list[tuple[int, tuple[int, ...], tuple[int, ...]]]
) -> None:
    committee, ballots = staged(zoo)
    sure = np.flatnonzero(stored_exits(committee, ballots.votes).stage == 0)[:3]
    with torch.no_grad():
        found = Cascade(Ensemble(committee), committee).exits(images_of(zoo)[torch.from_numpy(sure)])
    assert runs == [(3, (2,), (0,))]
    assert found.stage.tolist() == [0, 0, 0]


def test_one_at_a_time_and_in_chunks(zoo: "Zoo", runs: list[tuple[int, tuple[int, ...], tuple[int, ...]]]) -> None:
    committee, _ = staged(zoo)
    whole = Ensemble(committee)
    images = images_of(zoo)
    with torch.no_grad():
        together = Cascade(whole, committee).exits(images)
        runs.clear()
        parts = Cascade(whole, committee, chunk=8).exits(images)
        assert max(count * len(views) for count, _, views in runs) == 8
        alone = [Cascade(whole, committee).exits(image[None]) for image in images[:20]]
    for name in ("probs", "top", "stage", "member_top"):
        torch.testing.assert_close(getattr(parts, name), getattr(together, name), atol=2e-5, rtol=0)
        single = torch.cat([getattr(one, name) for one in alone], 1 if name == "member_top" else 0)
        torch.testing.assert_close(single, getattr(together, name)[..., :20] if name == "member_top" else
                                   getattr(together, name)[:20], atol=2e-5, rtol=0)  # fmt: skip


def test_members_are_of_the_opinion_they_were_asked_for(zoo: "Zoo") -> None:
    committee, ballots = staged(zoo)
    with torch.no_grad():
        found = Cascade(Ensemble(committee), committee).exits(images_of(zoo))
    plain = [merge([replace(v, logits=v.logits[:1], view_weights=[1.0])], "probs")[1] for v in ballots.votes]
    both = [merge([v], "probs")[1] for v in ballots.votes]
    for i, stage in enumerate(found.stage.tolist()):
        wanted = {
            0: [-1, -1, plain[2][i]],
            1: [plain[0][i], -1, plain[2][i]],
            2: [own[i] for own in both],
        }[stage]
        assert found.member_top[:, i].tolist() == wanted


def test_no_images_are_no_answers(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    with torch.no_grad():
        found = Cascade(Ensemble(committee), committee).exits(torch.zeros(0, 32, 32, 3, dtype=torch.uint8))
    assert (found.probs.shape, found.top.shape, found.member_top.shape) == ((0, 10), (0,), (3, 0))


def test_other_images_are_refused(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    with pytest.raises(UsageError, match=r"give uint8 \[N, 32, 32, 3\]"):
        Cascade(Ensemble(committee), committee)(torch.zeros(2, 3, 16, 16))


def test_a_committee_without_stages_is_no_cascade(zoo: "Zoo") -> None:
    committee = zoo.committee()
    with pytest.raises(UsageError, match="no cascade: `ensemble cascade"):
        Cascade(Ensemble(committee), committee)


@pytest.mark.parametrize("change", [lambda net: net.double(), lambda net: net.bfloat16()])
def test_it_is_a_module_of_any_precision(zoo: "Zoo", change: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    committee, _ = staged(zoo)
    images = images_of(zoo)
    with torch.no_grad():
        net = Cascade(Ensemble(committee), committee)
        before = net.exits(images)
        assert not any(module.training for module in net.modules())
        change(net)
        after = net.exits(images)
    same = before.stage == after.stage
    assert same.float().mean() > 0.8
    torch.testing.assert_close(after.probs[same].float(), before.probs[same], atol=0.1, rtol=0)
    assert net.state_dict().keys() == {f"whole.{key}" for key in net.whole.state_dict()}


def test_load_gives_what_runs_early_exits_and_the_whole_on_request(zoo: "Zoo", tmp_path: Path) -> None:
    committee, _ = staged(zoo)
    path = tmp_path / "cascade.json"
    write_lockfile(path, committee, fitted_on=None, metrics={})
    net = ensemble.load(path)
    assert isinstance(net, Cascade)
    assert (net.classes, net.input_size) == (zoo.split.classes, (32, 32))
    images = images_of(zoo)
    with torch.no_grad():
        verdict = Ensemble(committee).verdict(images)
        assert torch.equal(net(images), net.exits(images).probs)
        assert not torch.allclose(net(images), verdict.probs, atol=1e-3)
        assert torch.equal(net.member_probs(images), verdict.member_probs)
        assert torch.equal(net.disagreement(images), verdict.disagreement)


def test_networks_that_are_loaded_answer_the_ballots_and_the_cascade(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    source = zoo.split_source()
    whole = load_whole(committee, source, device=CPU)
    own, shared = (fresh_ballots(committee, source, device=CPU, whole=net) for net in (None, whole))
    assert shared.labels.tolist() == own.labels.tolist()
    for one, other in zip(own.votes, shared.votes, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        assert (one.weight, one.temperature) == (other.weight, other.temperature)
    found, alone = (fresh_exits(committee, source, device=CPU, whole=net) for net in (whole, None))
    np.testing.assert_array_equal(found.probs, alone.probs)
    np.testing.assert_array_equal(found.stage, alone.stage)


def test_networks_that_give_nan_are_an_error(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    source = zoo.split_source()
    whole = load_whole(committee, source, device=CPU)
    whole.temperatures.fill_(torch.nan)
    with pytest.raises(DataError, match="not finite"):
        fresh_exits(committee, source, device=CPU, whole=whole)


@pytest.mark.parametrize("limit", [None, 37])
def test_a_fresh_run_is_in_the_order_of_the_ballots(zoo: "Zoo", limit: int | None) -> None:
    committee, _ = staged(zoo)
    source = zoo.split_source()
    told: list[tuple[int, str]] = []
    found = fresh_exits(committee, source, device=CPU, limit=limit, progress=lambda n, name: told.append((n, name)))
    ballots = fresh_ballots(committee, source, device=CPU, limit=limit)
    wanted = stored_exits(committee, ballots.votes)
    assert isinstance(found, Exits)
    np.testing.assert_array_equal(found.stage, wanted.stage)
    np.testing.assert_allclose(found.probs, wanted.probs, atol=2e-5)
    assert told == [(limit or 60, "cascade")]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    with torch.no_grad():
        here = Cascade(Ensemble(committee), committee).exits(images_of(zoo))
        there = Cascade(Ensemble(committee), committee).cuda().exits(images_of(zoo).cuda())
    assert there.probs.is_cuda
    assert there.stage.tolist() == here.stage.tolist()
    torch.testing.assert_close(there.probs.cpu(), here.probs, atol=5e-3, rtol=0)  # TF32


def test_a_fresh_run_on_other_classes_is_refused(zoo: "Zoo") -> None:
    committee, _ = staged(zoo)
    source = zoo.split_source()
    source.split = replace(source.split, classes=tuple("abcdefghij"))
    for use in (fresh_exits, load_whole):
        with pytest.raises(DataError, match="'tiny-a' has the classes airplane"):
            use(committee, source, device=CPU)
