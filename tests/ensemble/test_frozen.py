"""A frozen committee says what the committee says."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.frozen import freeze
from ensemble.merge import MERGES, Merge
from ensemble.module import Ensemble
from tta.freeze import FrozenNet, Setting
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CPU = torch.device("cpu")


@pytest.mark.parametrize("how", MERGES)
def test_it_says_the_same(zoo: "Zoo", how: Merge) -> None:
    model = Ensemble(zoo.committee("tiny-a=2,tiny-b=0.5,tiny-c", "flip", how, 0.7))
    images = torch.from_numpy(zoo.split.images)
    with torch.inference_mode():
        plain, frozen = model.verdict(images), freeze(model, Setting(CPU)).verdict(images)
        near = freeze(model, Setting(CPU, "bf16"))(images)
    for name in ("probs", "top", "member_probs", "disagreement"):
        assert_close(getattr(frozen, name), getattr(plain, name), rtol=1e-4, atol=1e-5)
    if how != "vote":
        assert 0 < (near - plain.probs).abs().max() < 0.05


def test_the_committee_given_is_not_changed(zoo: "Zoo") -> None:
    model = Ensemble(zoo.committee("tiny-a,tiny-b"))
    nets, before = list(model.nets), {name: values.clone() for name, values in model.state_dict().items()}
    frozen = freeze(model, Setting(CPU, "bf16"))
    frozen.weights.fill_(7)
    assert list(model.nets) == nets
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_it_can_be_taken_apart_into_stages(zoo: "Zoo") -> None:
    model = Ensemble(zoo.committee("tiny-a,tiny-b,tiny-c", "flip+shift1"))
    frozen = freeze(model, Setting(CPU))
    images = torch.from_numpy(zoo.split.images[:5])
    with torch.inference_mode():
        whole = frozen.log_probs(frozen.planes(images))
        part = frozen.log_probs(frozen.planes(images), members=[2, 0], views=[3, 1, 0])
    assert_close(part, whole[[2, 0]][:, [3, 1, 0]], rtol=1e-4, atol=1e-5)


def test_what_is_frozen_is_not_frozen_again(zoo: "Zoo") -> None:
    frozen = freeze(Ensemble(zoo.committee("tiny-a,tiny-b")), Setting(CPU))
    with pytest.raises(UsageError, match="frozen already"):
        freeze(frozen, Setting(CPU, "bf16"))
    with pytest.raises(UsageError, match="a frozen network stays on cpu in fp32"):
        frozen.half()


def test_what_cannot_be_frozen(zoo: "Zoo") -> None:
    committee = Ensemble(zoo.committee())
    with pytest.raises(UsageError, match=r"^FastNet is no committee: a single network is frozen by tta\.freeze"):
        freeze(committee.nets[0])  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"in training mode: call its eval\(\) first$"):
        freeze(committee.train())


def test_a_device_may_be_named() -> None:
    assert Setting("cpu").device == CPU  # type: ignore[arg-type]


def test_only_a_cascade_is_compiled_for_batches_of_any_size(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a,tiny-b")
    committee = replace(
        committee, cascade=(Stage(("tiny-a",), "none", 1.0, 0.9), Stage(("tiny-a", "tiny-b"), "none", 1.0, 0.0))
    )
    whole = Ensemble(committee)
    for model, dynamic in ((whole, False), (Cascade(whole, committee), True)):
        nets = [net for net in freeze(model, Setting(CPU)).nets if isinstance(net, FrozenNet)]
        assert [net.setting.dynamic for net in nets] == [dynamic] * 2


def test_a_cascade_freezes_as_its_committee_does(zoo: "Zoo") -> None:
    images = torch.from_numpy(zoo.split.images)
    with torch.inference_mode():
        sure = Ensemble(zoo.committee("tiny-b"))(images).amax(1)
        committee = zoo.committee("tiny-a,tiny-b", "flip")
        first = Stage(("tiny-b",), "none", 1.0, float(sure.median()) + 1e-4)
        committee = replace(committee, cascade=(first, Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0)))
        cascade = Cascade(Ensemble(committee), committee)
        plain, frozen = cascade.exits(images), freeze(cascade, Setting(CPU)).exits(images)
    assert set(plain.stage.tolist()) == {0, 1}
    assert torch.equal(plain.stage, frozen.stage)
    assert_close(frozen.probs, plain.probs, rtol=1e-4, atol=1e-5)
