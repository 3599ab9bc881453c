"""Shipped recipes parse and train; a malformed one is refused in words."""

import re
import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tests.conftest import random_split
from tests.training.conftest import fit
from training.job import Job
from training.optimizers import build_optimizers
from training.recipe import Augment, ParamGroup, Recipe, Whitening, load_recipe, parse_recipe, recipe_names
from zoo.archs import ARCHS, create
from zoo.cli.train import command
from zoo.data import MEAN_STD
from zoo.errors import UsageError

# Arguments that make a deep architecture affordable here; its parameters' names stay of the same kinds.
SHALLOW = {"pyramid272": {"depth": 20, "alpha": 12}}

GOOD = """
arch = "fastnet"
epochs = 3
batch_size = 50
precision = "bf16"
label_smoothing = 0.2
arch_args = { widths = [16, 32, 64] }

[augment]
flip = "alternating"
crop_padding = 2

[whitening]
images = 100
eps = 5e-4

[[groups]]
params = "*.conv?.weight"
optimizer = "muon"
lr = 1
momentum = 0.6
normalize = true

[[groups]]
params = "*"
optimizer = "sgd"
lr = 0.5
weight_decay = 1e-4
schedule = "cosine"
anneal = 0.25
"""
SHORT = 'arch = "fastnet"\nepochs = 1\nbatch_size = 2\nprecision = "fp32"\n'
GROUP = '[[groups]]\nparams = "*"\noptimizer = "sgd"\nlr = 1.0\n'


def test_every_value_arrives() -> None:
    assert parse_recipe("mine", GOOD) == Recipe(
        name="mine",
        arch="fastnet",
        epochs=3,
        batch_size=50,
        precision="bf16",
        label_smoothing=0.2,
        arch_args={"widths": [16, 32, 64]},
        augment=Augment(flip="alternating", crop_padding=2),
        whitening=Whitening(images=100, eps=0.0005),
        groups=(
            ParamGroup(
                params="*.conv?.weight",
                optimizer="muon",
                lr=1.0,
                momentum=0.6,
                weight_decay=0.0,
                schedule="linear",
                anneal=1.0,
                normalize=True,
            ),
            ParamGroup(
                params="*",
                optimizer="sgd",
                lr=0.5,
                momentum=0.9,
                weight_decay=0.0001,
                schedule="cosine",
                anneal=0.25,
                normalize=False,
            ),
        ),
    )


def test_what_is_left_out_is_off() -> None:
    recipe = parse_recipe("short", SHORT + GROUP)
    assert recipe.augment == Augment(flip="none", crop_padding=0)
    assert recipe.whitening is None
    assert recipe.label_smoothing == 0
    assert recipe.groups == (ParamGroup("*", "sgd", 1.0, 0.9, 0.0, "linear", 1.0, normalize=False),)
    assert recipe.arch_args == {}


def test_recipe_names_are_the_files() -> None:
    folder = Path(str(files("training").joinpath("recipes")))
    assert recipe_names() == sorted(p.stem for p in folder.glob("*.toml"))
    assert "fastnet" in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_starts_with_its_launch_command(name: str) -> None:
    first = files("training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(first, comments=False)
    assert words[:4] == ["#", "zoo", "train", name]
    options = command.make_context("train", words[3:]).params
    assert options["recipe"] == name
    assert options["seed"] == 1


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_gives_every_parameter_one_optimizer(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.arch in ARCHS
    net = create(recipe.arch, 10, **recipe.arch_args)
    optimizers, schedules = build_optimizers(net, recipe.groups, total_steps=10)
    assert len(optimizers) == len(schedules) == len(recipe.groups)
    held = [p.data_ptr() for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(p.data_ptr() for p in net.parameters() if p.requires_grad)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [g.lr for g in recipe.groups]


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_trains_two_steps(name: str, tmp_path: Path) -> None:
    shipped = load_recipe(name)
    whitening = shipped.whitening and replace(shipped.whitening, images=8)
    arguments = {**shipped.arch_args, **SHALLOW.get(shipped.arch, {})}
    recipe = replace(shipped, epochs=1, batch_size=4, whitening=whitening, arch_args=arguments)
    job = Job(recipe, 0, "noise", random_split(8), random_split(4, seed=1), *MEAN_STD["cifar10"])
    trained = fit(job, tmp_path)
    torch.manual_seed(0)
    before = dict(create(recipe.arch, 10, **arguments).named_parameters())
    moved = {n for n, p in trained.net.named_parameters() if p.requires_grad and not torch.equal(p, before[n])}
    assert moved == {n for n, p in before.items() if p.requires_grad}
    assert all(p.isfinite().all() for p in trained.net.parameters())
    assert len(trained.rows) == 1


def test_unknown_recipe_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'fastent' \(did you mean 'fastnet'\?\); there are .*fastnet"):
        load_recipe("fastent")


@pytest.mark.parametrize("name", ["../recipes/fastnet", "fastnet.toml", ""])
def test_only_names_of_recipes_are_read(name: str) -> None:
    with pytest.raises(UsageError, match="unknown recipe"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epoch = 3", "recipe 'bad': unknown key 'epoch' (did you mean 'epochs'?)"),
        ("crop_padding", "crop_pading", "[augment]: unknown key 'crop_pading' (did you mean 'crop_padding'?)"),
        ("eps =", "epsilon =", "[whitening]: unknown key 'epsilon'"),
        ("anneal", "annealing", "[[groups]]: unknown key 'annealing' (did you mean 'anneal'?)"),
        ("epochs = 3", "epochs = 3.0", "epochs is 3.0, not of type int"),
        ("epochs = 3", "epochs = true", "epochs is True, not of type int"),
        ("epochs = 3", 'epochs = "3"', "epochs is '3', not of type int"),
        ("lr = 1\n", "lr = true\n", "lr is True, not of type float"),
        ("lr = 0.5", 'lr = "0.5"', "lr is '0.5', not of type float"),
        ("normalize = true", "normalize = 1", "normalize is 1, not of type bool"),
        ('arch = "fastnet"', "arch = 1", "arch is 1, not of type str"),
        ("crop_padding = 2", "crop_padding = 2.0", "crop_padding is 2.0, not of type int"),
        ('precision = "bf16"', 'precision = "fp16"', "precision is 'fp16', not one of fp32, bf16"),
        ('flip = "alternating"', "flip = true", "flip is True, not one of none, random, alternating"),
        ('optimizer = "muon"', 'optimizer = "adam"', "optimizer is 'adam', not one of sgd, muon"),
        ('schedule = "cosine"', 'schedule = "step"', "schedule is 'step', not one of linear, cosine"),
        ("epochs = 3\n", "", "epochs"),
        ("images = 100\n", "", "images"),
        ("lr = 0.5\n", "", "lr"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        parse_recipe("bad", GOOD.replace(old, new, 1))
    assert str(raised.value).startswith("recipe 'bad'")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHORT + "augment = 3\n" + GROUP, "[augment]: a table is needed, not 3"),
        (SHORT + "whitening = [1]\n" + GROUP, "[whitening]: a table is needed, not [1]"),
        (SHORT + "groups = 3\n", "groups is a list of tables: [[groups]]"),
        (SHORT + "groups = [3]\n", "[[groups]]: a table is needed, not 3"),
        (SHORT + GROUP.replace("[[groups]]", "[groups]"), "groups is a list of tables: [[groups]]"),
        (SHORT, "at least one [[groups]] is needed"),
    ],
)
def test_tables_must_be_tables(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_recipe("bad", text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epochs = 0", "epochs must be above 0"),
        ("batch_size = 50", "batch_size = 1", "batch_size must be above 1"),
        ("label_smoothing = 0.2", "label_smoothing = 1", "label_smoothing must be in [0, 1)"),
        ("label_smoothing = 0.2", "label_smoothing = -0.1", "label_smoothing must be in [0, 1)"),
        ("label_smoothing = 0.2", "label_smoothing = nan", "label_smoothing must be in [0, 1)"),
        ("crop_padding = 2", "crop_padding = -1", "augment.crop_padding must not be negative"),
        ("anneal = 0.25", "anneal = 0.0", "groups.anneal must be in (0, 1]"),
        ("anneal = 0.25", "anneal = 1.1", "groups.anneal must be in (0, 1]"),
        ("lr = 0.5", "lr = 0.0", "groups.lr must be finite and above 0"),
        ("lr = 0.5", "lr = nan", "groups.lr must be finite and above 0"),
    ],
)
def test_values_out_of_range_are_refused(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=re.escape(f"recipe 'bad': {message}")):
        parse_recipe("bad", GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("epochs = 3", "epochs = 1"), ("batch_size = 50", "batch_size = 2"), ("anneal = 0.25", "anneal = 1")],
)
def test_values_at_the_end_of_their_range_are_taken(old: str, new: str) -> None:
    key, value = new.split(" = ")
    recipe = parse_recipe("good", GOOD.replace(old, new))
    assert getattr(recipe if hasattr(recipe, key) else recipe.groups[1], key) == int(value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("momentum = 0.6", "momentum = 1.0"),
        ("momentum = 0.6", "momentum = -0.1"),
        ("weight_decay = 1e-4", "weight_decay = -1e-4"),
        ("images = 100", "images = 0"),
        ("eps = 5e-4", "eps = -1.0"),
        ("lr = 0.5", "lr = inf"),
        ("epochs = 3", 'epochs = 3\nname = "other"'),
        ("arch_args = { widths = [16, 32, 64] }", "arch_args = 3"),
    ],
)
def test_more_values_out_of_range_are_refused(old: str, new: str) -> None:
    with pytest.raises(UsageError):
        parse_recipe("bad", GOOD.replace(old, new))


@pytest.mark.parametrize("text", ["epochs = ", "[augment", 'arch = "fastnet"\narch = "fastnet"\n', "\x00"])
def test_malformed_toml_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="recipe 'bad' is not valid TOML: ") as raised:
        parse_recipe("bad", text)
    assert "\n" not in str(raised.value)
