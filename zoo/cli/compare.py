"""`zoo compare`: is one recipe better than another?"""

import json
from pathlib import Path
from typing import Any

import click

from zoo.cli.complete import recipe_names
from zoo.cli.trials import TrialOptions, check_all_done, run_trials, trial_options
from zoo.cli.types import FiniteRange
from zoo.errors import UsageError

__all__ = ["command"]


@click.command("compare")
@click.argument("first", metavar="RECIPE_A", shell_complete=recipe_names)
@click.argument("second", metavar="RECIPE_B", shell_complete=recipe_names)
@click.option("--runs", type=click.IntRange(2, 1000), default=5, show_default=True, help="Seeds of each: 1 to this.")
@click.option("--set-a", "set_a", metavar="KEY=VALUE", multiple=True, help="Override a value of RECIPE_A alone.")
@click.option("--set-b", "set_b", metavar="KEY=VALUE", multiple=True, help="Override a value of RECIPE_B alone.")
@click.option(
    "--effect",
    type=FiniteRange(0, 100, min_open=True),
    default=0.1,
    show_default=True,
    help="Difference in points that you would want to see.",
)
@trial_options
def command(
    *,
    first: str,
    second: str,
    runs: int,
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    effect: float,
    options: TrialOptions,
) -> None:
    """Train two recipes with the same seeds, and say with a paired interval whether the second is better.

    Both are measured on the validation split, with flip. The interval is over seeds. All trainings are kept in one
    folder (--out) and used again: more --runs, or another recipe, train only what is missing.

    \b
      zoo compare resnet18 resnet18 --set-b label_smoothing=0.2 --runs 5 --data cifar10/
      zoo compare wrn28-10-30ep wrn40-10-30ep --runs 3 --data cifar10/
    """
    from training.statistics import paired_interval, spread, verdict
    from training.sweep import plan

    out = options.folder("compare")
    sides = [
        plan(options.request(recipe, own), seeds=range(1, runs + 1), grid={}, out=out)[0].trials
        for recipe, own in ((first, set_a), (second, set_b))
    ]
    if sides[0][0].name == sides[1][0].name:
        raise UsageError("these are the same recipe: name another, or change one with --set-a or --set-b KEY=VALUE")
    # Seed by seed, so that an interrupted comparison has pairs.
    outcomes = run_trials([trial for pair in zip(*sides, strict=True) for trial in pair], options, out)
    reached = {o.trial.name: o.accuracy["flip"] for o in outcomes if o.error is None}
    pairs = [(a.seed, reached[a.name], reached[b.name]) for a, b in zip(*sides, strict=True) if _both(reached, a, b)]
    if len(pairs) < 2:  # noqa: PLR2004  # an interval needs two
        check_all_done(outcomes)
    called = [_called(recipe, own) for recipe, own in ((first, set_a), (second, set_b))]
    values = [[pair[1] for pair in pairs], [pair[2] for pair in pairs]]
    found = paired_interval(values[0], values[1])
    said = verdict(found, called[0], called[1], effect / 100)
    if options.as_json:
        each = [
            {"recipe": name, "mean": s.mean, "std": s.std, "values": side}
            for name, side, s in zip(called, values, map(spread, values), strict=True)
        ]
        about = {
            "dataset": options.where,
            "split": "val",
            "views": "flip",
            "seeds": [pair[0] for pair in pairs],
            "a": each[0],
            "b": each[1],
            "difference": found.mean,
            "std": found.std,
            "level": found.level,
            "interval": found.interval,
            "real": found.real,
            "verdict": said,
        }
        click.echo(json.dumps(about, indent=1))
    else:
        for name, side in zip(called, values, strict=True):
            mean = spread(side)
            click.echo(f"{name}: {100 * mean.mean:.2f} %, spread {100 * (mean.std or 0):.2f} points, {mean.n} runs")
        click.echo(said)
    check_all_done(outcomes)


def _both(reached: dict[str, float], *pair: Any) -> bool:  # noqa: ANN401  # trials, which are not imported up here
    return all(trial.name in reached for trial in pair)


def _called(recipe: str, own: tuple[str, ...]) -> str:
    """Return what a side is called in the verdict."""
    name = Path(recipe).stem if recipe.endswith(".toml") else recipe
    return f"{name} ({', '.join(own)})" if own else name
