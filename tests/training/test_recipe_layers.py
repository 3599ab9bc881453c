"""Recipes laid over their bases, and `--set` over both: what is merged, what is replaced, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from training.recipe import Augment, Optimizer, Recipe, Sam, Schedule
from training.recipe_file import load_recipe, parse_recipe, to_toml
from zoo.errors import UsageError

PLAIN = 'arch = "cnn6"\nepochs = 1\nbatch_size = 2\nprecision = "fp32"\noptimizer = { lr = 1.0 }\n'
MORE = """
sam = { rho = 0.05 }
average = { kind = "ema" }
distill = { hard_share = 0.5 }
whitening = { images = 10, eps = 0.1 }
"""


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_recipe_is_laid_over_its_base_key_by_key() -> None:
    base = load_recipe("fastnet")
    over = parse_recipe("mine", 'base = "fastnet"\nepochs = 7\n[augment]\ncutout = 9\n[optimizer]\nmomentum = 0.5\n')
    assert (over.name, over.arch, over.epochs, over.whitening) == ("mine", base.arch, 7, base.whitening)
    assert (over.augment.cutout, over.augment.crop_padding, base.augment.crop_padding) == (9, 2, 2)
    assert (over.optimizer.momentum, over.optimizer.lr) == (0.5, base.optimizer.lr)
    # Groups take what they do not say from the [optimizer] that results.
    head = next(g for g in over.groups if g.params == "head.weight")
    assert (head.optimizer.momentum, head.optimizer.lr) == (0.5, 1005.0)


@pytest.mark.parametrize(
    ("under", "over", "expected"),
    [
        ({"every": 0.5, "kind": "step", "by": "epoch"}, {"every": 0.25}, Schedule("step", every=0.25, by="epoch")),
        ({"kind": "step", "every": 0.5}, {"kind": "step", "gamma": 0.5}, Schedule("step", every=0.5, gamma=0.5)),
        ({"kind": "step", "every": 0.5}, {"kind": "linear", "end": 0.5}, Schedule("linear", end=0.5)),
        ({"kind": "step", "every": 0.5}, {"kind": "cosine"}, Schedule()),
        # A table without `kind` is of the default kind, which stating it does not change.
        ({"warmup": 0.1, "final": 0.2}, {"kind": "cosine", "end": 0.9}, Schedule(warmup=0.1, final=0.2, end=0.9)),
        ({"warmup": 0.1}, {"kind": "linear"}, Schedule("linear")),
        ({}, {"kind": "linear"}, Schedule("linear")),
        (
            {"kind": "multistep", "milestones": [0.2, 0.4, 0.6]},
            {"milestones": [0.5]},
            Schedule("multistep", milestones=(0.5,)),
        ),
    ],
)
@pytest.mark.parametrize("where", ["base", "group"])
def test_another_kind_replaces_and_the_same_is_merged(
    under: dict[str, Any], over: dict[str, Any], expected: Schedule, where: str, tmp_path: Path
) -> None:
    below = PLAIN + tomli_w.dumps({"schedule": under})
    if where == "base":
        write(tmp_path, below=below, above='base = "below.toml"\n' + tomli_w.dumps({"schedule": over}))
        assert load_recipe(str(tmp_path / "above.toml")).schedule == expected
    else:
        group = {"params": "*", "schedule": over}
        recipe = parse_recipe("mine", PLAIN + tomli_w.dumps({"groups": [group], "schedule": under}))
        assert recipe.groups[0].schedule == expected


def test_group_of_the_default_kind_keeps_what_the_optimizer_says() -> None:
    text = PLAIN.replace("lr = 1.0", "lr = 1.0, momentum = 0.5") + "[[groups]]\nparams = '*'\nkind = 'sgd'\n"
    assert parse_recipe("mine", text).groups[0].optimizer == Optimizer(1.0, momentum=0.5)


def test_lists_are_replaced_whole(tmp_path: Path) -> None:
    one, two = ("[[groups]]\nparams = '{}'\nlr = {}\n".format(*group) for group in (("a", 2), ("b", 3)))
    args = "[arch_args]\nwidths = [1, 2, 3]\n"
    write(tmp_path, below=PLAIN + args + one + two, above='base = "below.toml"\narch_args = {widths = [4]}\n' + one)
    recipe = load_recipe(str(tmp_path / "above.toml"))
    assert [g.params for g in recipe.groups] == ["a"]
    assert recipe.arch_args == {"widths": [4]}
    write(tmp_path, none='base = "below.toml"\ngroups = []\n')
    assert load_recipe(str(tmp_path / "none.toml")).groups == ()


def test_false_switches_off_what_a_base_has(tmp_path: Path) -> None:
    write(tmp_path, below=PLAIN + MORE, above='base = "below.toml"\nsam = false\naverage = false\n')
    recipe = load_recipe(str(tmp_path / "above.toml"), ["distill=false", "whitening=false"])
    assert (recipe.sam, recipe.average, recipe.distill, recipe.whitening) == (None,) * 4
    assert parse_recipe("above", to_toml(recipe)) == recipe
    write(tmp_path, again='base = "above.toml"\nsam = { rho = 0.2 }\n')
    assert load_recipe(str(tmp_path / "again.toml")).sam == Sam(0.2)
    with pytest.raises(UsageError, match="augment is False, not a table"):
        load_recipe(str(tmp_path / "below.toml"), ["augment=false"])


def test_chain_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, r0=PLAIN, **{f"r{i}": f'base = "r{i - 1}.toml"\nepochs = {i}\n' for i in range(1, 10)})
    write(
        tmp_path / "deep", below='base = "../r1.toml"\nclip_norm = 1\n', above='base = "below.toml"\nsnapshots = false'
    )
    monkeypatch.chdir(tmp_path / "deep")
    assert load_recipe(str(tmp_path / "r8.toml")).epochs == 8
    with pytest.raises(
        UsageError, match=re.escape("base = 'r0.toml' is one too many: bases go in a circle, or 8 deep")
    ):
        load_recipe(str(tmp_path / "r9.toml"))
    # A base's path starts from the recipe's own folder, wherever one stands.
    for path in ("above.toml", str(tmp_path / "deep" / "above.toml")):
        assert (load_recipe(path).epochs, load_recipe(path).clip_norm) == (1, 1)


def test_packaged_recipe_may_be_the_base_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, mine='base = "fastnet"\nepochs = 99\n')
    assert load_recipe(str(tmp_path / "mine.toml")).epochs == 99
    assert load_recipe(str(tmp_path / "mine.toml")).groups == load_recipe("fastnet").groups


@pytest.mark.parametrize("base", ["mine.toml", "./mine.toml", "other.toml"])
def test_bases_in_a_circle_are_one_line(base: str, tmp_path: Path) -> None:
    write(tmp_path, mine=f'base = "{base}"\n', other='base = "mine.toml"\n')
    with pytest.raises(UsageError, match="is one too many: bases go in a circle"):
        load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 3", "recipe 'bad': base is 3, not the name of another recipe"),
        ('base = "base"', "recipe 'bad', base: unknown recipe 'base'"),
        ('base = "fastent"', "recipe 'bad', base: unknown recipe 'fastent' (did you mean 'fastnet'?)"),
        ('base = "a\\u0000b.toml"', "recipe 'bad', base: recipe 'a\\x00b.toml' cannot be read: "),
    ],
)
def test_base_that_cannot_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}") as raised:
        parse_recipe("bad", text)
    assert "\n" not in str(raised.value)


@pytest.fixture
def fastnet() -> Recipe:
    return load_recipe("fastnet")


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("epochs=7", lambda r: r.epochs, 7),
        (" epochs = 7 ", lambda r: r.epochs, 7),
        ("optimizer.lr=0.05", lambda r: r.optimizer.lr, 0.05),
        ("optimizer . lr=5", lambda r: r.optimizer.lr, 5.0),
        ("optimizer.lr=1e-3  # a comment", lambda r: r.optimizer.lr, 1e-3),
        ("precision=fp32", lambda r: r.precision, "fp32"),
        ('precision="fp32"', lambda r: r.precision, "fp32"),
        ("augment.policy=randaugment", lambda r: r.augment.policy, "randaugment"),
        ("compile=true", lambda r: r.compile, True),
        ("arch_args.widths=[1, 2, 3]", lambda r: r.arch_args, {"widths": [1, 2, 3]}),
        ("arch_args.a.b=1", lambda r: r.arch_args, {"a": {"b": 1}}),
        ("arch_args.name=two words", lambda r: r.arch_args, {"name": "two words"}),
        ("arch_args.name=a=b", lambda r: r.arch_args, {"name": "a=b"}),
        ("arch_args.name=", lambda r: r.arch_args, {"name": ""}),
        ("augment={ cutout = 3 }", lambda r: r.augment, Augment(cutout=3)),  # a table replaces the whole table
        ("sam.rho=0.1", lambda r: r.sam, Sam(0.1)),
        ("sam={ rho = 0.1, adaptive = true }", lambda r: r.sam, Sam(0.1, adaptive=True)),
        ("whitening=false", lambda r: r.whitening, None),
        ("groups=[]", lambda r: r.groups, ()),
        ("groups.0.schedule.end=0.5", lambda r: r.groups[0].schedule.end, 0.5),
        ("groups.1.lr=2", lambda r: r.groups[1].optimizer.lr, 2.0),
        ("groups.1.schedule.warmup=0.1", lambda r: r.groups[1].schedule, Schedule("linear", warmup=0.1)),
        ('groups.1={ params = "a" }', lambda r: (r.groups[1].params, r.groups[1].optimizer.lr), ("a", 79.5)),
        ("optimizer.momentum=0.5", lambda r: [g.optimizer.momentum for g in r.all_groups()], [0.5, 0.5, 0.6, 0.5]),
        ("schedule.kind=cosine", lambda r: [g.schedule.kind for g in r.all_groups()], ["cosine"] * 4),
        (
            'schedule={ kind = "multistep", milestones = [0.5, 0.75] }',
            lambda r: r.schedule,
            Schedule("multistep", milestones=(0.5, 0.75)),
        ),
    ],
)
def test_override(override: str, read: Any, expected: Any, fastnet: Recipe) -> None:  # noqa: ANN401
    assert read(fastnet) != expected
    more = ["groups.0.schedule={}"] if override.startswith("schedule={") else []  # its `end` would not fit
    changed = load_recipe("fastnet", [*more, override])
    assert read(changed) == expected
    assert parse_recipe("fastnet", to_toml(changed)) == changed


def test_overrides_are_applied_in_order() -> None:
    changed = load_recipe(
        "wrn16-4", ["epochs=3", "schedule={}", "schedule.kind=step", "schedule.every=0.5", "epochs=4"]
    )
    assert changed.schedule == Schedule("step", every=0.5)
    assert changed.epochs == 4


def test_override_of_a_list_by_index(tmp_path: Path) -> None:
    write(tmp_path, mine=PLAIN + 'schedule = { kind = "multistep", milestones = [0.5, 0.75] }\n')
    recipe = load_recipe(str(tmp_path / "mine.toml"), ["schedule.milestones.1=0.9"])
    assert recipe.schedule.milestones == (0.5, 0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "--set 'epochs': KEY=VALUE is needed, such as optimizer.lr=0.05"),
        ("", "--set '': KEY=VALUE is needed"),
        ("=3", "--set '=3': KEY=VALUE is needed"),
        (".lr=3", "--set '.lr=3': KEY=VALUE is needed"),
        ("optimizer.=3", "--set 'optimizer.=3': KEY=VALUE is needed"),
        ("optimizer. =3", "--set 'optimizer. =3': KEY=VALUE is needed"),
        ("optimizer..lr=3", "--set 'optimizer..lr=3': KEY=VALUE is needed"),
        ("epochs=3\nbatch_size=4", "--set 'epochs=3\\nbatch_size=4': one value is needed"),
        ("epochs.x=3", "--set 'epochs.x=3': epochs is 10, not a table"),
        ("epochs.x.y=3", "--set 'epochs.x.y=3': there is no table at 'x'"),
        ("groups.3.lr=3", "--set 'groups.3.lr=3': '3' is not one of 0..2"),
        ("groups.3={}", "--set 'groups.3={}': '3' is not one of 0..2"),
        ("groups.-1.lr=3", "--set 'groups.-1.lr=3': '-1' is not one of 0..2"),
        ("groups.head.lr=3", "--set 'groups.head.lr=3': 'head' is not one of 0..2"),
        ("optimizer.lrr=3", "recipe 'fastnet': unknown key 'optimizer.lrr' (did you mean 'lr'?)"),
        ("optimiser.lr=3", "recipe 'fastnet': unknown key 'optimiser' (did you mean 'optimizer'?)"),
        ("optimizer.lr=high", "recipe 'fastnet': optimizer.lr is 'high', not a number"),
        ("optimizer.lr=", "recipe 'fastnet': optimizer.lr is '', not a number"),
        ("optimizer.lr=.5", "recipe 'fastnet': optimizer.lr is '.5', not a number"),
        ("optimizer.lr=nan", "recipe 'fastnet': optimizer.lr must be finite and above 0"),
        ("optimizer.lr=" + "[" * 3000, "recipe 'fastnet': optimizer.lr is '[[["),
        ("epochs=" + "9" * 5000, "recipe 'fastnet': epochs is '999"),
        ("epochs=3 4", "recipe 'fastnet': epochs is '3 4', not a whole number"),
        ("epochs=2020-01-01", "recipe 'fastnet': epochs is datetime.date(2020, 1, 1), not a whole number"),
        ("groups.2.lr=0", "recipe 'fastnet', groups.2: optimizer.lr must be finite and above 0"),
        ("groups.2.name=x", "recipe 'fastnet', groups.2: unknown key 'name'"),
        ("name=other", "recipe 'fastnet': a recipe's name is its file's, not a key"),
        ("lr=0.1", "recipe 'fastnet': unknown key 'lr' (did you mean 'optimizer.lr'?)"),
        ("base=resnet18", "recipe 'fastnet': unknown key 'base'"),
    ],
)
def test_override_that_cannot_be_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}") as raised:
        load_recipe("fastnet", [override])
    assert "\n" not in str(raised.value)


def test_index_into_an_empty_list_says_so() -> None:
    with pytest.raises(UsageError, match=r"^--set 'groups.0.lr=1': '0' is not there: the list is empty$"):
        load_recipe("fastnet", ["groups=[]", "groups.0.lr=1"])
