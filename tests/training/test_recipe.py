"""What a recipe as a whole takes and refuses, and which parameters its shipped ones move with what."""

import math
import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from training.optimizers import build_optimizers
from training.recipe import Augment, Norms, Optimizer, ParamGroup, Recipe, Schedule
from training.recipe_file import load_recipe, recipe_names
from zoo.archs import ARCHS, create
from zoo.errors import UsageError

SGD, MUON = Optimizer(0.1), Optimizer(0.2, "muon")


def recipe(**changes: Any) -> Recipe:  # noqa: ANN401
    fields: dict[str, Any] = {
        "name": "mine",
        "arch": "fastnet",
        "epochs": 2,
        "batch_size": 10,
        "precision": "bf16",
        "optimizer": SGD,
    }
    return Recipe(**(fields | changes))


def test_what_is_left_out_is_off() -> None:
    plain = recipe()
    assert plain.schedule == Schedule("cosine")
    assert plain.augment == Augment(flip="none", crop_padding=0, policy="none", cutout=0, mix="none")
    assert plain.norms == Norms(ghost=0, scale=0.0)
    assert (plain.whitening, plain.sam, plain.average, plain.distill) == (None, None, None, None)
    assert (plain.label_smoothing, plain.clip_norm, plain.accumulate) == (0, 0, 1)
    assert (plain.channels_last, plain.compile, plain.snapshots) == (False, False, False)
    assert (plain.groups, plain.arch_args) == ((), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0"),
        ({"batch_size": 1}, "batch_size must be above 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in [0, 1)"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in [0, 1)"),
        ({"label_smoothing": math.nan}, "label_smoothing must be in [0, 1)"),
        ({"clip_norm": -1.0}, "clip_norm must be finite and not negative"),
        ({"clip_norm": math.inf}, "clip_norm must be finite and not negative"),
        ({"clip_norm": math.nan}, "clip_norm must be finite and not negative"),
        ({"accumulate": 0}, "accumulate must be above 0"),
        ({"accumulate": -1}, "accumulate must be above 0"),
        ({"accumulate": 3}, "batch_size must be a multiple of accumulate"),
        ({"accumulate": 20}, "batch_size must be a multiple of accumulate"),
        ({"optimizer": MUON, "precision": "fp16"}, "muon works in bf16 or fp32, not in fp16"),
        (
            {"groups": (ParamGroup("*.weight", MUON, Schedule()),), "precision": "fp16"},
            "muon works in bf16 or fp32, not in fp16",
        ),
        ({"optimizer": MUON, "channels_last": True}, "muon needs contiguous filters: no channels_last"),
        ({"snapshots": True}, "snapshots needs a schedule of cycles: restarts or cyclic"),
        ({"snapshots": True, "schedule": Schedule("onecycle")}, "snapshots needs a schedule of cycles"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        recipe(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 1, "batch_size": 2, "accumulate": 2},
        {"label_smoothing": 0.0, "clip_norm": 0.0},
        {"label_smoothing": 0.999, "clip_norm": 1e-9},
        {"accumulate": 10},
        {"optimizer": MUON, "precision": "fp32"},
        {"precision": "fp16", "channels_last": True},
        {"snapshots": True, "schedule": Schedule("restarts", cycles=3)},
        {"snapshots": True, "schedule": Schedule("cyclic", cycles=3)},
    ],
)
def test_what_fits_is_taken(changes: dict[str, Any]) -> None:
    made = recipe(**changes)
    assert {key: getattr(made, key) for key in changes} == changes


def test_all_groups_end_with_the_recipes_own() -> None:
    schedule = Schedule("linear")
    group = ParamGroup("*.bias", Optimizer(0.3), schedule)
    assert tuple(recipe(groups=(group,), schedule=schedule).all_groups()) == (group, ParamGroup("*", SGD, schedule))
    assert tuple(recipe().all_groups()) == (ParamGroup("*", SGD, Schedule()),)


def test_recipes_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        recipe().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_gives_every_parameter_one_optimizer(name: str) -> None:
    shipped = load_recipe(name)
    assert shipped.arch in ARCHS
    with torch.device("meta"):  # shapes without values: the largest has 56 million parameters
        net = create(shipped.arch, 10, **shipped.arch_args)
    groups = tuple(shipped.all_groups())
    built = build_optimizers(net, groups)
    assert [group for group, _ in built] == list(groups)
    named = {id(p): key for key, p in net.named_parameters() if p.requires_grad}
    held = [
        named[id(p)]
        for _, optimizer in built
        for p in getattr(optimizer, "_filters", None) or [p for g in optimizer.param_groups for p in g["params"]]
    ]
    assert sorted(held) == sorted(named.values())
    assert [o.param_groups[0]["lr"] for _, o in built] == [group.optimizer.lr for group in groups]
