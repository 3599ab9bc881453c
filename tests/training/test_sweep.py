"""The plan of a sweep, and what becomes of its results."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.figures import size_of
from training.recipe_file import load_recipe
from training.sweep import Point, Request, draw, parse_grid, parse_seeds, plan, sums, table, to_csv
from training.trial import Outcome
from zoo.errors import UsageError
from zoo.names import is_name


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1-5", (1, 2, 3, 4, 5)), ("7", (7,)), ("3, 1,3,8-9,2-3", (3, 1, 8, 9, 2)), ("0-0", (0,))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "1-", "-1", "5-1", "a", "1.5", "1,,2", "0-99999999", "9" * 19])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"numbers and ranges are needed, such as 1-5"):
        parse_seeds(text)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_seeds_come_back_once_each_in_their_order(seeds: list[int]) -> None:
    assert list(parse_seeds(",".join(map(str, seeds)))) == list(dict.fromkeys(seeds))


def test_grids() -> None:
    assert parse_grid(["optimizer.lr=0.05,0.1", "batch_size = 64"[:10] + "=64,128"]) == {
        "optimizer.lr": ("0.05", "0.1"),
        "batch_size": ("64", "128"),
    }
    nested = parse_grid(["arch_args.widths=[8, 8],[16,16]", 'augment.policy="a,b",none', "sam={rho = 1, x = 2}"])
    assert nested == {
        "arch_args.widths": ("[8, 8]", "[16,16]"),
        "augment.policy": ('"a,b"', "none"),
        "sam": ("{rho = 1, x = 2}",),
    }
    assert parse_grid([]) == {}


@pytest.mark.parametrize("texts", [["lr"], ["lr="], ["=1"], ["lr=1,,2"], ["lr=1,1"], ["lr=1", "lr=2"]])
def test_grids_that_are_none(texts: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--grid 'lr|--grid '="):
        parse_grid(texts)


def planned(out: Path, *, seeds: Sequence[int] = (1, 2), request: Request | None = None, **grid: str) -> list[Point]:
    keys = {key.replace("__", "."): tuple(values.split()) for key, values in grid.items()}
    return plan(request or Request("fastnet"), seeds=seeds, grid=keys, out=out)


def test_a_grid_is_the_product_of_its_values_and_seeds(tmp_path: Path) -> None:
    points = planned(tmp_path, batch_size="500 1000", epochs="1 2 3")
    assert [p.settings for p in points] == [
        {"batch_size": b, "epochs": e} for b in ("500", "1000") for e in ("1", "2", "3")
    ]
    assert [t.seed for p in points for t in p.trials] == [1, 2] * 6
    names = [t.name for p in points for t in p.trials]
    assert len(set(names)) == 12
    assert all(map(is_name, names))
    assert names[0].startswith("fastnet-batch_size500-epochs1-")
    assert names[0].endswith("-seed1")
    trial = points[3].trials[1]
    assert trial.arguments == (
        *("train", "fastnet", "--seed", "2", "--name", trial.name, "--to", str(tmp_path / "entries")),
        *("--run-dir", str(tmp_path / "runs" / trial.name), "--replace", "--set=batch_size=1000", "--set=epochs=1"),
    )
    assert trial.same == {"recipe": "fastnet", "dataset": "cifar10", "epochs": 1, "seed": 2}
    assert not trial.anywhere


def test_seeds_of_a_recipe_as_it_is_are_called_as_zoo_train_calls_them(tmp_path: Path) -> None:
    request = Request("fastnet", "cifar100", options=("--dataset", "cifar100", "--device", "cpu"))
    (point,) = plan(request, seeds=(3,), grid={}, out=tmp_path / "out", to=tmp_path / "zoo")
    (trial,) = point.trials
    assert trial.arguments == (
        *("train", "fastnet", "--seed", "3", "--name", "fastnet-cifar100-seed3", "--to", str(tmp_path / "zoo")),
        *("--dataset", "cifar100", "--device", "cpu"),
    )
    assert trial.anywhere
    assert trial.same["overrides"] is None


@pytest.mark.parametrize(
    "changed", [{"overrides": ("epochs=3",)}, {"changes": ("--size", "64")}, {"recipe": "mine.toml"}]
)
def test_a_changed_recipe_stays_in_the_sweeps_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | tuple[str, ...]]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('base = "fastnet"')
    request = replace(Request("fastnet"), **changed)  # type: ignore[arg-type]  # one of its fields
    (point,) = plan(request, seeds=(1,), grid={}, out=tmp_path / "out", to=tmp_path / "zoo")
    assert point.trials[0].entries == tmp_path / "out" / "entries"
    assert "--replace" in point.trials[0].arguments
    assert not point.trials[0].anywhere


def test_names_tell_apart_what_is_trained_and_nothing_else(tmp_path: Path) -> None:
    def name(request: Request, **grid: str) -> str:
        return planned(tmp_path, seeds=(1,), request=request, **grid)[0].trials[0].name

    base = Request("fastnet", overrides=("epochs=3",))
    assert name(base) == name(replace(base, options=("--device", "cpu"))), "where it is trained does not matter"
    assert name(base) == name(replace(base, overrides=("epochs=4", "epochs=3"))), "the resolved recipe counts"
    others = [
        replace(base, overrides=("epochs=4",)),
        replace(base, dataset="cifar100"),
        replace(base, changes=("--size", "64")),
    ]
    assert len({name(base), *map(name, others)}) == 4
    slug = name(base, batch_size="500")
    assert slug.startswith("fastnet-batch_size500-")
    assert name(base, epochs="3").rsplit("-")[-2] == name(base).rsplit("-")[-2], "however it was said"


def test_a_bad_place_of_the_grid_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        planned(tmp_path, batch_size="500 many")
    with pytest.raises(UsageError, match="unknown key 'batchsize'"):
        planned(tmp_path, batchsize="500")


def outcomes_of(points: Sequence[Point], **accuracy: float) -> list[Outcome]:
    """The outcomes of trials called by their place and seed: `p0s1=0.9`; the others failed."""
    found = []
    for i, point in enumerate(points):
        for trial in point.trials:
            flip = accuracy.get(f"p{i}s{trial.seed}")
            values = {} if flip is None else {"none": flip - 0.01, "flip": flip}
            found.append(Outcome(trial, values, 5.0 if values else None, None if values else "error: no"))
    return found


def test_means_are_over_the_seeds_that_finished(tmp_path: Path) -> None:
    points = planned(tmp_path, batch_size="500 1000 1500")
    outcomes = outcomes_of(points, p0s1=0.90, p0s2=0.92, p1s2=0.8)
    first, second, third = sums(points, outcomes)
    assert first is not None
    assert second is not None
    assert (first.n, first.mean, first.std) == pytest.approx((2, 0.91, 0.02 / 2**0.5))
    assert (second.n, second.mean, second.std) == (1, 0.8, None)
    assert third is None
    plain = sums(points, outcomes, "none")[0]
    assert plain is not None
    assert plain.mean == pytest.approx(0.90)


def test_the_csv_has_a_row_for_each_trial(tmp_path: Path) -> None:
    points = planned(tmp_path, batch_size="500 1000")
    outcomes = outcomes_of(points, p0s1=0.9, p0s2=0.92)[:3]
    rows = table(points, outcomes)
    assert [row["state"] for row in rows] == ["done", "done", "failed", "missing"]
    to_csv(rows, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["name", "seed", "batch_size", "state", "val_flip", "val_none", "seconds", "error"]
    assert read[1] | {"name": ""} == {
        "name": "",
        "seed": "2",
        "batch_size": "500",
        "state": "done",
        "val_flip": "0.92",
        "val_none": "0.91",
        "seconds": "5.0",
        "error": "",
    }
    assert (read[2]["val_flip"], read[2]["error"]) == ("", "error: no")
    assert (tmp_path / "entries" / read[0]["name"]) == Path(rows[0]["entry"])


def test_one_or_two_settings_that_vary_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "heatmap.png"
    grids: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"batch_size": "500"}, False),
        ({"batch_size": "500 1000", "epochs": "3"}, True),
        ({"batch_size": "500 1000", "epochs": "3 4"}, True),
        ({"batch_size": "500 1000", "epochs": "3 4", "label_smoothing": "0.1 0.2"}, False),
    ]
    for grid, drawn in grids:
        path.unlink(missing_ok=True)
        points = planned(tmp_path, seeds=(1,), **grid)
        outcomes = outcomes_of(points, **{f"p{i}s1": 0.9 + i / 100 for i in range(len(points) - 1)} or {"p0s1": 0.9})
        assert draw(points, outcomes, path, "fastnet") is drawn
        assert path.exists() is drawn
        if drawn:
            assert size_of(path) > (300, 300)
        assert not draw(points, [], path, "fastnet"), "nothing is known"


def test_the_recipe_that_the_tests_vary_is_what_they_take_it_for() -> None:
    assert load_recipe("fastnet").batch_size == 1500
