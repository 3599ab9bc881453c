"""TOML becomes a recipe and goes back; bases and overrides are laid over each other; mistakes are one line each."""

import re
import shlex
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recipe import (
    Augment,
    Average,
    Distill,
    Norms,
    Optimizer,
    ParamGroup,
    Recipe,
    Sam,
    Schedule,
    Whitening,
)
from training.recipe_file import load_recipe, parse_recipe, recipe_names, to_toml
from zoo.cli.train import command
from zoo.errors import MenagerieError, NotFoundError, UsageError
from zoo.places import builtin

FULL = """
arch = "fastnet"
epochs = 3
batch_size = 50
precision = "bf16"
label_smoothing = 0.2
clip_norm = 1
accumulate = 5
compile = true
snapshots = true
arch_args = { widths = [16, 32, 64], name = "x", deep = { er = 1.5 } }

[augment]
flip = "alternating"
crop_padding = 2
crop_fill = "zeros"
mix = "random"

[whitening]
images = 100
eps = 5e-4

[norms]
ghost = 10

[optimizer]
lr = 0.5
momentum = 0.8
weight_decay = 1e-4

[schedule]
kind = "restarts"
cycles = 3
warmup = 0.1

[sam]
rho = 0.05

[average]
kind = "swag"
samples = 2

[distill]
teacher = "self"
temperature = 4

[[groups]]
params = "*.conv?.weight"
kind = "muon"
lr = 1
normalize = true

[[groups]]
params = "*.bias"
lr = 64.0
schedule = { kind = "multistep", milestones = [0.5, 1], by = "epoch" }

[[groups]]
params = "head.*"
weight_decay = 0
schedule = { cycles = 5 }
"""
RESTARTS = Schedule("restarts", cycles=3, warmup=0.1)
PLAIN = 'arch = "cnn6"\nepochs = 1\nbatch_size = 2\nprecision = "fp32"\noptimizer = { lr = 1.0 }\n'


def refused(name: str, text: str) -> str:
    """Return the error line of a recipe's text."""
    with pytest.raises(UsageError) as raised:
        parse_recipe(name, text)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_value_arrives() -> None:
    assert parse_recipe("mine", FULL) == Recipe(
        name="mine",
        arch="fastnet",
        epochs=3,
        batch_size=50,
        precision="bf16",
        label_smoothing=0.2,
        clip_norm=1.0,
        accumulate=5,
        compile=True,
        snapshots=True,
        arch_args={"widths": [16, 32, 64], "name": "x", "deep": {"er": 1.5}},
        augment=Augment(flip="alternating", crop_padding=2, crop_fill="zeros", mix="random"),
        whitening=Whitening(images=100, eps=0.0005),
        norms=Norms(ghost=10),
        optimizer=Optimizer(0.5, momentum=0.8, weight_decay=1e-4),
        schedule=RESTARTS,
        sam=Sam(0.05),
        average=Average("swag", samples=2),
        distill=Distill("self", temperature=4.0),
        groups=(
            # Another kind starts from that kind's defaults; the same kind, from what [optimizer] says.
            ParamGroup("*.conv?.weight", Optimizer(1.0, "muon", normalize=True), RESTARTS),
            ParamGroup(
                "*.bias",
                Optimizer(64.0, momentum=0.8, weight_decay=1e-4),
                Schedule("multistep", by="epoch", milestones=(0.5, 1.0)),
            ),
            ParamGroup(
                "head.*",
                Optimizer(0.5, momentum=0.8, weight_decay=0.0),
                Schedule("restarts", cycles=5, warmup=0.1),
            ),
        ),
    )


def test_whole_numbers_become_floats_where_floats_are_wanted() -> None:
    recipe = parse_recipe("mine", FULL)
    assert type(recipe.clip_norm) is float
    assert type(recipe.groups[0].optimizer.lr) is float
    assert [type(m) for m in recipe.groups[1].schedule.milestones] == [float, float]
    assert type(recipe.epochs) is int


@pytest.mark.parametrize("text", [FULL, PLAIN])
def test_resolved_text_is_the_same_recipe(text: str) -> None:
    recipe = parse_recipe("mine", text)
    resolved = to_toml(recipe)
    assert parse_recipe("mine", resolved) == recipe
    assert to_toml(parse_recipe("mine", resolved)) == resolved


@given(
    lr=st.floats(0, exclude_min=True, allow_infinity=False),
    decay=st.floats(0, 1),
    milestones=st.lists(st.floats(0, 1, exclude_min=True), min_size=1, unique=True).map(sorted),
    params=st.text(st.characters(codec="utf-8"), max_size=20),
    args=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-9, 9) | st.booleans()),
)
def test_round_trip_keeps_every_bit(
    lr: float, decay: float, milestones: list[float], params: str, args: dict[str, Any]
) -> None:
    optimizer = Optimizer(lr, "adamw", weight_decay=decay)
    schedule = Schedule("multistep", milestones=tuple(milestones))
    recipe = Recipe(
        "mine",
        "cnn6",
        2,
        8,
        "fp16",
        optimizer,
        schedule,
        (ParamGroup(params, Optimizer(lr), schedule), ParamGroup("*", optimizer, Schedule("constant"))),
        arch_args=args,
    )
    assert parse_recipe("mine", to_toml(recipe)) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epoch = 3", "recipe 'bad': unknown key 'epoch' (did you mean 'epochs'?)"),
        ("ghost = 10", "gost = 10", "recipe 'bad': unknown key 'norms.gost' (did you mean 'ghost'?)"),
        ("momentum = 0.8", "nesterov = true", "recipe 'bad': unknown key 'optimizer.nesterov'"),
        ("lr = 64.0", "lrr = 64.0", "recipe 'bad', groups.1: unknown key 'lrr' (did you mean 'lr'?)"),
        ("cycles = 5", "cycle = 5", "recipe 'bad', groups.2: unknown key 'schedule.cycle' (did you mean 'cycles'?)"),
        ("normalize = true", "anneal = 0.5", "recipe 'bad', groups.0: unknown key 'anneal'"),
        ('kind = "muon"', 'optimizer = "muon"', "recipe 'bad', groups.0: unknown key 'optimizer'"),
        ("epochs = 3", 'epochs = "3"', "recipe 'bad': epochs is '3', not a whole number"),
        ("epochs = 3", "epochs = 3.0", "recipe 'bad': epochs is 3.0, not a whole number"),
        ("epochs = 3", "epochs = true", "recipe 'bad': epochs is True, not a whole number"),
        ("compile = true", "compile = 1", "recipe 'bad': compile is 1, not true or false"),
        ('arch = "fastnet"', "arch = 9", "recipe 'bad': arch is 9, not a text"),
        ("momentum = 0.8", "momentum = false", "recipe 'bad': optimizer.momentum is False, not a number"),
        ("momentum = 0.8", f"momentum = {'9' * 400}", "recipe 'bad': optimizer.momentum is too large"),
        ("lr = 64.0", 'lr = "64"', "recipe 'bad', groups.1: lr is '64', not a number"),
        ('params = "head.*"', "params = 1", "recipe 'bad', groups.2: params is 1, not a text"),
        ('"bf16"', '"int8"', "recipe 'bad': precision is 'int8', not one of fp32, bf16, fp16"),
        ('flip = "alternating"', "flip = true", "augment.flip is True, not one of none, random, alternating"),
        ('flip = "alternating"', 'flip = ["none"]', "augment.flip is ['none'], not one of none, random, alternating"),
        ("[0.5, 1]", "0.5", "recipe 'bad', groups.1: schedule.milestones is 0.5, not a list"),
        ("[0.5, 1]", '[0.5, "1"]', "recipe 'bad', groups.1: schedule.milestones.1 is '1', not a number"),
        ("[0.5, 1]", "[1, 0.5]", "recipe 'bad', groups.1: schedule.milestones must rise"),
        ("cycles = 3", "cycles = 3\nend = 0.5", "recipe 'bad': schedule.end is not for restarts, which takes cycles"),
        ("cycles = 5", "end = 0.5", "recipe 'bad', groups.2: schedule.end is not for restarts"),
        ("label_smoothing = 0.2", "label_smoothing = 1", "recipe 'bad': label_smoothing must be in [0, 1)"),
        ("momentum = 0.8", "momentum = 1", "recipe 'bad': optimizer.momentum must be in [0, 1)"),
        ("lr = 64.0", "lr = 0", "recipe 'bad', groups.1: optimizer.lr must be finite and above 0"),
        ("lr = 0.5\n", "", "recipe 'bad': optimizer.lr is missing"),
        ("lr = 1\n", "", "recipe 'bad', groups.0: lr is missing"),
        ('params = "head.*"\n', "", "recipe 'bad', groups.2: params is missing"),
        ('arch = "fastnet"\n', "", "recipe 'bad': arch is missing"),
        ("images = 100\n", "", "recipe 'bad': whitening.images is missing"),
        ('kind = "swag"\n', "", "recipe 'bad': average.kind is missing"),
        ("epochs = 3", 'epochs = 3\nname = "other"', "recipe 'bad': a recipe's name is its file's, not a key"),
    ],
)
def test_mistake_is_named_with_its_place(old: str, new: str, message: str) -> None:
    assert FULL.count(old) == 1
    assert refused("bad", FULL.replace(old, new)).startswith(
        message if message.startswith("recipe") else "recipe 'bad'"
    )
    assert message in refused("bad", FULL.replace(old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augment = 3", "augment is 3, not a table"),
        ("whitening = [1]", "whitening is [1], not a table"),
        ("whitening = true", "whitening is True, not a table"),
        ("arch_args = 3", "arch_args is 3, not a table"),
        ("schedule = 'cosine'", "schedule is 'cosine', not a table (did you mean schedule.kind = 'cosine'?)"),
        ("groups = 3", "groups is a list of tables: [[groups]]"),
        ("groups = [3]", "groups is a list of tables: [[groups]]"),
        ("[groups]\nlr = 1", "groups is a list of tables: [[groups]]"),
        (
            "[[groups]]\nparams = '*'\nschedule = 'cosine'",
            "groups.0: schedule is 'cosine', not a table (did you mean schedule.kind = 'cosine'?)",
        ),
    ],
)
def test_tables_must_be_tables(text: str, message: str) -> None:
    assert refused("bad", PLAIN + text).endswith(message)


def test_optimizer_must_be_a_table_and_there() -> None:
    group = "[[groups]]\nparams = '*'\nlr = 1\n"
    text = PLAIN.replace("{ lr = 1.0 }", '"sgd"') + group
    assert (
        refused("bad", text) == "recipe 'bad': optimizer is 'sgd', not a table (did you mean optimizer.kind = 'sgd'?)"
    )
    assert refused("bad", PLAIN.replace("optimizer = { lr = 1.0 }\n", "")) == "recipe 'bad': optimizer is missing"


@pytest.mark.parametrize(
    "text", ["epochs = ", "[augment", 'arch = "x"\narch = "x"\n', "\x00", "x = " + "[" * 5000, f"x = {'9' * 5000}"]
)
def test_malformed_toml_is_one_line(text: str) -> None:
    assert refused("bad", text).startswith("recipe 'bad' is not valid TOML: ")


def test_path_of_a_file_is_a_recipe_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PLAIN, encoding="utf-8")
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    assert recipe == parse_recipe("mine", PLAIN)
    assert recipe.name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastent", "unknown recipe 'fastent' (did you mean 'fastnet'?); there are cnn6, fastnet, "),
        ("nothing-like-it", "unknown recipe 'nothing-like-it'; there are cnn6, fastnet, "),
        ("../recipes/fastnet", "unknown recipe '../recipes/fastnet'"),
        ("none.toml", "recipe 'none.toml': no such file"),
        ("folder.toml", "recipe 'folder.toml' cannot be read: "),
        ("latin.toml", "recipe 'latin.toml' cannot be read: "),
        ("Mine.toml", "recipe 'Mine.toml': its name becomes the entry's, and must match [a-z0-9][a-z0-9._-]*"),
        (".toml", "recipe '.toml': its name becomes the entry's, and must match [a-z0-9][a-z0-9._-]*"),
    ],
)
def test_what_cannot_be_a_recipe_is_one_line(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.toml").mkdir()
    Path("latin.toml").write_bytes('arch = "é"'.encode("latin-1"))
    for file in ("Mine.toml", ".toml"):
        Path(file).write_text(PLAIN, encoding="utf-8")
    with pytest.raises(MenagerieError, match=f"^{re.escape(message)}") as raised:
        load_recipe(name)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, NotFoundError if name == "none.toml" else UsageError)


def test_recipe_names_are_the_files() -> None:
    folder = Path(str(files("training").joinpath("recipes")))
    assert recipe_names() == sorted(p.stem for p in folder.glob("*.toml"))
    assert {"fastnet", "pyramid272", "wrn28-10-sam"} <= set(recipe_names())


def test_other_files_are_no_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    for file in ("b.toml", "a.toml", "README.md", "a.toml~"):
        (tmp_path / "recipes" / file).touch()
    monkeypatch.setattr("training.recipe_file.files", lambda _package: tmp_path)
    assert recipe_names() == ["a", "b"]


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_loads_and_round_trips(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(name, to_toml(recipe)) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_starts_with_its_launch_command(name: str) -> None:
    lines = files("training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8").splitlines()
    words = shlex.split(lines[0], comments=False)
    assert words[:4] == ["#", "zoo", "train", name]
    options = command.make_context("train", words[3:]).params
    assert options["recipe"] == name
    # The first whose entry does not ship: that one would be refused.
    assert options["seed"] == next(seed for seed in count(1) if builtin().get(f"{name}-seed{seed}") is None)
    assert lines[1] == "#"
    assert len(lines[2]) > 20  # what it is, in words
