"""Many trainings of one recipe: seeds, grids of settings, and what they reached."""

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.heatmap import Axis, heatmap, line
from training.recipe_file import load_recipe, to_toml
from training.statistics import Spread, spread
from training.trial import Outcome, Trial
from zoo import store
from zoo.errors import UsageError
from zoo.files import atomic_write

__all__ = ["Point", "Request", "draw", "parse_grid", "parse_seeds", "plan", "sums", "table", "to_csv"]

_MOST = 10_000
_SLUG = 60


@dataclass(frozen=True)
class Request:
    """What is to be trained, apart from seeds and settings that vary.

    Attributes:
        recipe: name of a recipe of the package, or the path of a TOML file.
        dataset: what the data is called.
        overrides: `key=value`, for all trials.
        options: further options of `zoo train`, for example `--device cpu`.
        changes: those of `options`, and other words, that change what gets trained (not where, or how fast).
    """

    recipe: str
    dataset: str = "cifar10"
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether this is a recipe of the package as it is, whose entries are called RECIPE[-DATASET]-seedN."""
        return not self.overrides and not self.changes and not self.recipe.endswith(".toml")


@dataclass(frozen=True)
class Point:
    """A place of the grid: its settings (dotted key -> value as TOML) and its trials, one for each seed."""

    settings: Mapping[str, str]
    trials: tuple[Trial, ...]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that `1-5` or `1,3,7-9` means, in this order, each once.

    Raises:
        UsageError: not such a list, or more than 10,000 seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first or last - first >= _MOST:
            raise UsageError(f"--seeds {text!r}: numbers and ranges are needed, such as 1-5 or 1,3,7-9")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return tuple(seeds)


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the settings that vary: dotted key -> its values as TOML.

    Args:
        texts: `key=value,value,...` each; commas within brackets, braces or quotes belong to a value.

    Raises:
        UsageError: no key, no value, a value or a key twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        found = tuple(value.strip() for value in _split(values))
        if not equals or not key.strip() or not all(found):
            raise UsageError(f"--grid {text!r}: KEY=VALUE,VALUE,... is needed, such as optimizer.lr=0.05,0.1,0.2")
        if key in grid or len(set(found)) < len(found):
            raise UsageError(f"--grid {text!r}: {'a value' if key not in grid else 'this key'} is given twice")
        grid[key] = found
    return grid


def _split(text: str) -> list[str]:
    """Split at the commas that are outside brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def plan(
    request: Request, *, seeds: Sequence[int], grid: Mapping[str, Sequence[str]], out: Path, to: Path | None = None
) -> list[Point]:
    """Return the trials of a sweep: every place of the grid times every seed.

    A recipe of the package as it is files its entries under their usual names into `to`, and keeps its runs where
    `zoo train` has them, so that what either has begun, both go on with. Whatever is changed stays in the sweep's own
    folder, `out/entries` and `out/runs`, and has the start of a hash over the resolved recipe, the data and the options
    in its name.

    Args:
        request: what all trials share.
        seeds: of each place.
        grid: dotted key -> values as TOML; empty for seeds alone.
        out: the sweep's folder, absolute.
        to: the source folder for entries of a plain recipe; None to treat it as a changed one.

    Raises:
        UsageError, NotFoundError: as in `load_recipe`, for any place of the grid, before anything is trained.
    """
    points, cache = [], store.cache_folder().absolute()
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        overrides = (*request.overrides, *(f"{key}={value}" for key, value in settings.items()))
        recipe = load_recipe(request.recipe, overrides)
        dataset = "" if request.dataset == "cifar10" else f"-{request.dataset}"
        usual = to is not None and request.plain and not settings
        about = "\n".join((to_toml(recipe), request.dataset, *request.changes))
        slug = "" if usual else f"{_slug(settings)}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
        same: dict[str, object] = {"recipe": recipe.name, "dataset": request.dataset, "epochs": recipe.epochs}
        trials = []
        for seed in seeds:
            name = f"{recipe.name}{dataset}{slug}-seed{seed}"
            entries = to if usual and to is not None else out / "entries"
            given = [f"--set={override}" for override in overrides]
            kept = () if usual else ("--run-dir", str(out / "runs" / name), "--replace")
            shelf = () if usual and entries == cache else ("--to", str(entries))
            words = (request.recipe, "--seed", str(seed), "--name", name, *shelf, *kept, *given)
            trials.append(
                Trial(
                    name=name,
                    seed=seed,
                    settings=settings,
                    arguments=("train", *words, *request.options),
                    entries=entries,
                    log=out / "logs" / f"{name}.log",
                    same=same | {"seed": seed} | ({"overrides": None} if usual else {}),
                    anywhere=usual,
                )
            )
        points.append(Point(settings, tuple(trials)))
    return points


def _slug(settings: Mapping[str, str]) -> str:
    """Return settings as a part of a name: `optimizer.lr=0.05` -> `-lr0.05`; cut short, as a hash follows."""
    text = "".join(f"-{key.rpartition('.')[2]}{value}" for key, value in settings.items()).lower()
    return re.sub(r"[^a-z0-9._-]+", "", text)[:_SLUG].rstrip("-")


def sums(points: Sequence[Point], outcomes: Sequence[Outcome], views: str = "flip") -> list[Spread | None]:
    """Return mean and standard deviation of each place's accuracies on the validation split; None without any."""
    reached = _reached(outcomes, views)
    values = [[reached[t.name] for t in point.trials if t.name in reached] for point in points]
    return [spread(found) if found else None for found in values]


def _reached(outcomes: Sequence[Outcome], views: str) -> dict[str, float]:
    """Trial name -> accuracy."""
    return {o.trial.name: o.accuracy[views] for o in outcomes if views in o.accuracy}


def table(points: Sequence[Point], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each trial: name, seed, settings, state, accuracies (fractions), seconds, error, entry."""
    known = {outcome.trial.name: outcome for outcome in outcomes}
    rows = []
    for trial in (trial for point in points for trial in point.trials):
        found = known.get(trial.name)
        state = "missing" if found is None else "failed" if found.error else "done"
        rows.append(
            {
                "name": trial.name,
                "seed": trial.seed,
                "settings": dict(trial.settings),
                "state": state,
                "val": dict(found.accuracy) if found else {},
                "seconds": found.seconds if found else None,
                "error": found.error if found else None,
                "entry": str(trial.entries / trial.name),
            }
        )
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `table` as `sweep.csv`: a column for each setting and each view set."""
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    views = sorted({view for row in rows for view in row["val"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "seed", *keys, "state", *(f"val_{view}" for view in views), "seconds", "error"])
    for row in rows:
        settings, accuracies = (row["settings"].get(key) for key in keys), (row["val"].get(view) for view in views)
        writer.writerow([row["name"], row["seed"], *settings, row["state"], *accuracies, row["seconds"], row["error"]])
    atomic_write(path, text.getvalue().encode())


def draw(points: Sequence[Point], outcomes: Sequence[Outcome], path: Path, title: str, views: str = "flip") -> bool:
    """Draw a grid of one key as a line and one of two keys as a heat map; say whether there was something to draw."""
    axes = [
        Axis(key, tuple(dict.fromkeys(point.settings[key] for point in points)))
        for key in (points[0].settings if points else ())
    ]
    axes = [axis for axis in axes if len(axis.values) > 1]
    reached, found = _reached(outcomes, views), sums(points, outcomes, views)
    if not reached or len(axes) not in {1, 2}:
        return False
    if len(axes) == 1:
        values = {
            point.settings[axes[0].key]: [reached[t.name] for t in point.trials if t.name in reached]
            for point in points
        }
        line(axes[0], values, path, title)
        return True
    x, y = axes
    cells = {
        (point.settings[x.key], point.settings[y.key]): cell
        for point, cell in zip(points, found, strict=True)
        if cell is not None
    }
    heatmap(x, y, cells, path, title)
    return True
