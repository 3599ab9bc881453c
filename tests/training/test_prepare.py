"""The network that a run starts from, against the pieces that make it."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.conftest import fastnet_recipe, noisy_recipe, plain_recipe, toy_job, toy_split
from training.norms import GhostBatchNorm2d
from training.prepare import prepare_network
from training.recipe import Norms, Recipe, Whitening
from training.whitening import whitening_filters
from zoo.archs import create
from zoo.archs.fastnet import FastNet
from zoo.errors import UsageError


def test_the_seed_alone_decides() -> None:
    job = toy_job(noisy_recipe(), seed=4)
    torch.manual_seed(1)
    one = prepare_network(job).state_dict()
    torch.manual_seed(2)
    two = prepare_network(job).state_dict()
    torch.manual_seed(4)
    plain = create("wrn16-2", 3, **job.recipe.arch_args).state_dict()
    other = prepare_network(toy_job(noisy_recipe(), seed=5)).state_dict()
    assert one.keys() == two.keys() == plain.keys()
    assert all(torch.equal(value, two[name]) and torch.equal(value, plain[name]) for name, value in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_whitening_is_of_the_first_images_as_the_network_sees_them() -> None:
    job = toy_job(fastnet_recipe(whitening=Whitening(images=5, eps=0.01)))
    net = prepare_network(job)
    assert isinstance(net, FastNet)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in job.stats)
    pixels = (torch.from_numpy(job.part.images[:5]).permute(0, 3, 1, 2).float() / 255 - mean) / std
    filters = whitening_filters(pixels, 2, 0.01)
    gram = net.whiten.weight[:12].flatten(1).T @ net.whiten.weight[:12].flatten(1)  # whatever the signs are
    torch.testing.assert_close(gram, filters.flatten(1).T @ filters.flatten(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net.whiten.weight[12:], -net.whiten.weight[:12])


def test_norms_are_changed_as_asked() -> None:
    net = prepare_network(toy_job(noisy_recipe(norms=Norms(ghost=4, scale=0.25))))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert isinstance(norm, GhostBatchNorm2d)
        assert norm.images == 4
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.25))
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad
    assert not any(isinstance(m, GhostBatchNorm2d) for m in prepare_network(toy_job(noisy_recipe())).modules())


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format(channels_last: bool) -> None:
    net = prepare_network(toy_job(noisy_recipe(channels_last=channels_last)))
    filters = [p for p in net.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert {p.is_contiguous(memory_format=torch.channels_last) for p in filters} == {channels_last}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whitening": Whitening(5, 0.1)}, "recipe 'plain': resnet20 has no whitening layer"),
        ({"norms": Norms(ghost=4)}, "ghost BatchNorm: the network has no BatchNorm"),
        ({"norms": Norms(scale=1.0)}, "frozen BatchNorm scales: the network has no BatchNorm"),
        ({"arch": "resnet21"}, "unknown architecture 'resnet21' (did you mean "),
    ],
)
def test_what_the_network_does_not_have_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        prepare_network(toy_job(plain_recipe(**changes)))


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        (fastnet_recipe(), 64),
        (fastnet_recipe(), 16),
        (noisy_recipe(arch="pyramid110-a48", arch_args={"depth": 20}), 30),
    ],
)
def test_images_that_the_network_does_not_take_are_one_clear_line(recipe: Recipe, size: int) -> None:
    job = toy_job(recipe)
    job = replace(job, part=toy_split(9, size=size))
    said = f"recipe {recipe.name!r}: {recipe.arch} does not take images of {size} x {size} pixels: give --size N"
    with pytest.raises(UsageError, match=re.escape(said)):
        prepare_network(job)
