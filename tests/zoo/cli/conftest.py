"""What the tests of `zoo train` train: a few dozen images, and a recipe of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import random_split
from tests.training.conftest import fastnet_recipe
from tests.zoo.conftest import write_mosaic
from training.recipe import Recipe
from training.recipe_file import to_toml


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mosaic folder of ten classes, taken for CIFAR-10: 50 images to train on, 10 held out, 9 for the test."""
    splits = {"train-1": random_split(30, seed=1, size=26), "train-2": random_split(30, seed=2, size=26)}
    return write_mosaic(tmp_path_factory.mktemp("data"), {**splits, "test": random_split(9, seed=3, size=26)})


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let progress in a pipe be printed however soon it comes."""
    monkeypatch.setattr("zoo.cli.progress._APART", 0.0)


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[Recipe], Path]:
    """Return a function that writes a recipe to a file of its name."""

    def write(recipe: Recipe) -> Path:
        path = tmp_path / f"{recipe.name}.toml"
        path.write_text(to_toml(recipe), encoding="utf-8")
        return path

    return write


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, write_recipe: Callable[[Recipe], Path]) -> None:
    """Let there be a recipe `toy` in the package, and leave this process's memory allocator alone."""
    from training import recipe_file

    load, path = recipe_file.load_recipe, write_recipe(fastnet_recipe())

    def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
        return load(str(path) if name == "toy" else name, overrides)

    monkeypatch.setattr(recipe_file, "load_recipe", load_recipe)
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)
