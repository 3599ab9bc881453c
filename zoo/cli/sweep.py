"""`zoo sweep`: one recipe with many seeds and settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.complete import recipe_names
from zoo.cli.trials import TrialOptions, check_all_done, run_trials, trial_options
from zoo.errors import UsageError

if TYPE_CHECKING:
    from training.statistics import Spread
    from training.sweep import Point

__all__ = ["command"]


@click.command("sweep")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--seeds", "seed_text", metavar="LIST", help="1-5, or 1,3,7-9 [default: 1, with --grid].")
@click.option("--grid", "grids", metavar="KEY=V,V,...", multiple=True, help="A setting's values; several: all pairs.")
@click.option(
    "--to", type=click.Path(path_type=Path), help="(seeds only) Source folder to file in [default: the cache]."
)
@trial_options
def command(
    *, recipe: str, seed_text: str | None, grids: tuple[str, ...], to: Path | None, options: TrialOptions
) -> None:
    """Train a recipe with many seeds, or over a grid of settings, and show what each reached on the validation split.

    What is finished is skipped, a failure stops nothing but itself, and the same command goes on after Ctrl-C or a
    kill. Seeds alone fill the zoo as `zoo train` does; a grid's entries stay in the sweep's folder, with `sweep.csv`
    and, for one or two settings, `heatmap.png`. Choose by the validation split: the test split is not shown.

    \b
      zoo sweep fastnet --seeds 1-5 --data cifar10/
      zoo sweep resnet18 --grid optimizer.lr=0.05,0.1,0.2 --grid batch_size=64,128,256 --data cifar10/ --jobs 2
      zoo sweep wrn28-10 --seeds 1-8 --data /shared/cifar10 --out /shared/wrn --cluster auto
    """
    from training.sweep import draw, parse_grid, parse_seeds, plan, sums, table, to_csv
    from zoo import store

    if seed_text is None and not grids:
        raise UsageError("give --seeds 1-5, --grid optimizer.lr=0.05,0.1,0.2, or both")
    grid, seeds = parse_grid(grids), parse_seeds(seed_text or "1")
    request = options.request(recipe)
    if to is not None and (grid or not request.plain):
        raise UsageError("--to is for seeds of a recipe as it is; entries of a changed one stay in the sweep's --out")
    parts = [Path(recipe).stem if recipe.endswith(".toml") else recipe]
    parts += [options.where] if options.where != "cifar10" else []
    out = options.folder("-".join([*parts, *(key.rpartition(".")[2] for key in grid)]))
    points = plan(request, seeds=seeds, grid=grid, out=out, to=(to or store.cache_folder()).absolute())
    outcomes = run_trials([trial for point in points for trial in point.trials], options, out)
    rows, means = table(points, outcomes), sums(points, outcomes)
    out.mkdir(parents=True, exist_ok=True)
    to_csv(rows, out / "sweep.csv")
    picture = out / "heatmap.png"
    drawn = draw(points, outcomes, picture, f"{parts[0]}: {_seeds_said(seeds)}")
    if options.as_json:
        found = {
            "recipe": recipe,
            "dataset": options.where,
            "split": "val",
            "views": "flip",
            "points": [_point(point, mean) for point, mean in zip(points, means, strict=True)],
            "trials": rows,
            "folder": str(out),
            "picture": str(picture) if drawn else None,
        }
        click.echo(json.dumps(found, indent=1))
    else:
        _print_table(points, means, len(seeds))
        if not options.quiet:
            click.echo(f"{out / 'sweep.csv'}{f', {picture.name}' if drawn else ''}", err=True)
    check_all_done(outcomes)


def _seeds_said(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean and standard deviation of {len(seeds)} seeds"


def _point(point: "Point", mean: "Spread | None") -> dict[str, Any]:
    """Return a place of the grid for JSON; fractions."""
    return {
        "settings": dict(point.settings),
        "runs": mean.n if mean else 0,
        "mean": mean.mean if mean else None,
        "std": mean.std if mean else None,
    }


def _print_table(points: "Sequence[Point]", means: "Sequence[Spread | None]", runs: int) -> None:
    from rich.console import Console
    from rich.table import Table

    best = max((mean.mean for mean in means if mean), default=None)
    keys = list(points[0].settings)
    shown = Table()
    for key in keys:
        shown.add_column(key, justify="right")
    for name in ("runs", "validation, flip", "spread", ""):
        shown.add_column(name, justify="right")
    for point, mean in zip(points, means, strict=True):
        spread = "" if mean is None or mean.std is None else f"{100 * mean.std:.2f}"
        reached = "" if mean is None else f"{100 * mean.mean:.2f} %"
        mark = "best" if keys and mean is not None and mean.mean == best else ""
        shown.add_row(*point.settings.values(), f"{mean.n if mean else 0} of {runs}", reached, spread, mark)
    console = Console()
    Console(width=console.width if console.is_terminal else 120, markup=False, emoji=False).print(shown)
