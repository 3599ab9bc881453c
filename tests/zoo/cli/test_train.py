"""`zoo train` from its arguments to an entry that loads, on a mosaic folder of a few dozen images."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zoo
from tests.training.conftest import fastnet_recipe, fit, toy_split
from tests.zoo.conftest import Outcome, file_entry, listing, write_mosaic
from training.job import Job
from training.recipe import Recipe
from zoo import store
from zoo.cli.progress import Progress
from zoo.data import MEAN_STD, load_training
from zoo.entry import Entry

STEPS = 12  # two epochs of the 54 images that are not held out, eight a batch

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    splits = {"train-1": toy_split(30, size=26), "train-2": toy_split(30, 1, size=26), "test": toy_split(9, size=26)}
    return write_mosaic(folder, splits)


@pytest.fixture(autouse=True)
def _toy_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be one recipe more, and leave this process's memory allocator alone."""
    from training import recipe

    load = recipe.load_recipe

    def load_recipe(name: str) -> Recipe:
        return fastnet_recipe() if name == "toy" else load(name)

    monkeypatch.setattr(recipe, "load_recipe", load_recipe)
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.load_training", lambda *_args: pytest.fail("the data was read"))
    monkeypatch.setattr("training.loop.train", lambda *_args, **_kwargs: pytest.fail("training began"))


def stored_weights(entry: Entry) -> dict[str, bytes]:
    return {name: value.half().numpy().tobytes() for name, value in entry.load().state_dict().items()}


def expected_weights(data: Path, folder: Path, seed: int, dataset: str = "cifar10") -> dict[str, bytes]:
    """What the library trains on the same images."""
    job = Job(fastnet_recipe(), seed, dataset, *load_training(dataset, data), *MEAN_STD[dataset])
    state = fit(job, folder).net.state_dict()
    return {name: value.half().numpy().tobytes() for name, value in state.items()}


def test_an_entry_is_trained_filed_and_loads(command: Command, data: Path, zoo_home: Path, tmp_path: Path) -> None:
    done = command("train", "toy", "--seed", 3, "--data", data)
    assert done.code == 0
    folder = zoo_home / "entries" / "toy-seed3"
    found = re.fullmatch(r"(.+): ([\d.]+) % on the validation split with flip\n", done.out)
    assert found is not None
    assert found[1] == str(folder)

    entry = store.find("toy-seed3")
    assert entry.folder == folder
    entry.verify()
    net, card = zoo.load("toy-seed3")
    assert not net.training
    assert stored_weights(entry) == expected_weights(data, tmp_path / "run", 3)
    assert (card.recipe, card.seed, card.dataset) == ("toy", 3, "cifar10")
    assert (card.mean, card.std) == MEAN_STD["cifar10"]
    assert card.trained_on is not None
    assert card.trained_on["images"] == 54
    assert {name: len(split.labels) for name, split in entry.predictions().splits.items()} == {"val": 6, "test": 9}
    assert float(found[2]) == pytest.approx(100 * card.metrics["val"]["flip"], abs=0.006)

    lines = done.err.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert sum(line.startswith("training toy-seed3: ") for line in lines) == 10
    assert any(line.startswith(f"training toy-seed3: {STEPS}/{STEPS} steps, ") for line in lines)
    assert lines[-1].startswith("predictions: 15/15 images, ")
    assert {p.name for p in (zoo_home / "runs" / "toy-seed3").iterdir()} == {"metrics.csv", "run.json", "state.pt"}


def test_name_to_run_dir_and_quiet(
    command: Command, data: Path, zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, run = tmp_path / "shelf", tmp_path / "run"
    done = command(
        "train", "toy", "--seed", 3, "--data", data, "--name", "mine", "--to", shelf, "--run-dir", run, "--quiet"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{shelf / 'mine'}: ")
    assert [p.name for p in shelf.iterdir()] == ["mine"]
    assert (run / "state.pt").is_file()
    assert not zoo_home.exists()
    monkeypatch.setenv("ZOO_SOURCE", str(shelf))
    assert zoo.load("mine")[1].seed == 3


def test_another_dataset_is_part_of_the_name(command: Command, data: Path, tmp_path: Path) -> None:
    done = command("train", "toy", "--seed", 0, "--data", data, "--dataset", "cifar100", "-q")
    assert done.code == 0
    entry = store.find("toy-cifar100-seed0")
    assert (entry.card.mean, entry.card.std) == MEAN_STD["cifar100"]
    assert stored_weights(entry) == expected_weights(data, tmp_path / "run", 0, "cifar100")


def test_interrupted_it_goes_on_where_it_was(
    command: Command, data: Path, zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, steps = Progress.advance, []

    def interrupted(self: Progress, amount: int) -> None:
        steps.append(amount)
        if len(steps) == 8:
            raise KeyboardInterrupt
        advance(self, amount)

    words = ("train", "toy", "--seed", 3, "--data", data)
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "advance", interrupted)
        first = command(*words)
    assert (first.code, first.out) == (130, "")
    assert first.err.endswith("error: interrupted\n")
    assert store.names([store.FolderSource(store.cache_folder())]) == []

    second = command(*words)
    assert second.code == 0
    run = zoo_home / "runs" / "toy-seed3"
    assert second.err.splitlines()[0] == f"going on at step 6 of {STEPS} ({run})"
    assert "epoch 2  " in second.err
    assert "epoch 1  " not in second.err
    assert stored_weights(store.find("toy-seed3")) == expected_weights(data, tmp_path / "run", 3)


def test_an_existing_name_is_refused_before_anything_slow(
    command: Command, data: Path, zoo_home: Path, nothing_slow: None
) -> None:
    del nothing_slow
    file_entry(zoo_home / "entries", "toy-seed3")
    before = listing(zoo_home)
    done = command("train", "toy", "--seed", 3, "--data", data)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: 'toy-seed3' exists already in ")
    assert "--replace" in done.err
    assert listing(zoo_home) == before


def test_replace_takes_the_place_of_ones_own(command: Command, data: Path, zoo_home: Path) -> None:
    old = file_entry(zoo_home / "entries", "toy-seed3").sums
    assert command("train", "toy", "--seed", 3, "--data", data, "--replace", "-q").code == 0
    entry = store.find("toy-seed3")
    entry.verify()
    assert entry.sums != old
    assert [p.name for p in (zoo_home / "entries").iterdir()] == ["toy-seed3"]


def test_a_builtin_name_cannot_be_shadowed(
    command: Command, data: Path, package: Path, nothing_slow: None, zoo_home: Path
) -> None:
    del nothing_slow
    file_entry(package / "builtin", "toy-seed3")
    for words in (("--seed", 3), ("--seed", 4, "--name", "toy-seed3"), ("--seed", 3, "--replace")):
        done = command("train", "toy", *words, "--data", data)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: 'toy-seed3' is builtin and cannot be shadowed: ")
        assert len(done.err.splitlines()) == 1
    assert not zoo_home.exists()


def test_a_builtin_name_may_be_filed_elsewhere(command: Command, data: Path, package: Path, tmp_path: Path) -> None:
    file_entry(package / "builtin", "toy-seed3")
    done = command("train", "toy", "--seed", 3, "--data", data, "--to", tmp_path / "shelf", "-q")
    assert done.code == 0
    assert Entry("toy-seed3", tmp_path / "shelf" / "toy-seed3", "shelf").card.seed == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toyy", "--seed", "1"), "unknown recipe 'toyy'"),
        (("fastent", "--seed", "1"), "unknown recipe 'fastent' (did you mean 'fastnet'?)"),
        (("toy",), "Missing option '--seed'"),
        (("toy", "--seed", "-1"), "-1 is not in the range 0<=x<="),
        (("toy", "--seed", "x"), "'x' is not a valid integer"),
        (("toy", "--seed", "1", "--threads", "0"), "0 is not in the range x>=1"),
        (("toy", "--seed", "1", "--name", "../mine"), "not a valid entry name: '../mine'"),
        (("toy", "--seed", "1", "--name", "Mine"), "not a valid entry name: 'Mine'"),
        (("toy", "--seed", "1", "--device", "gpu"), "--device 'gpu' cannot be used"),
    ],
)
@pytest.mark.usefixtures("nothing_slow")
def test_usage_errors_come_before_anything_slow(
    command: Command, data: Path, zoo_home: Path, words: tuple[str, ...], message: str
) -> None:
    done = command("train", *words, "--data", data)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not zoo_home.exists()


def test_a_refused_name_does_not_even_import_torch() -> None:
    code = (
        "import sys; from zoo.cli import group; from zoo.cli.group import run;"
        "code = run(group, ['train', 'fastnet', '--seed', '1', '--name', '../mine']);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not a valid entry name" in done.stderr


def test_data_that_is_not_there_is_named(command: Command, data: Path, tmp_path: Path) -> None:
    done = command("train", "toy", "--seed", 3, "--data", tmp_path / "nowhere")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"error: data folder '.*nowhere' does not exist\n", done.err)
    done = command("train", "toy", "--seed", 3)
    assert done.code == 1
    assert "--data DIR" in done.err
    assert "ZOO_DATA" in done.err
    done = command("train", "toy", "--seed", 3, "--data", data, "--dataset", "cifar11")
    assert done.code == 2
    assert "'cifar11' is not one of 'cifar10', 'cifar100'" in done.err


def test_data_may_come_from_the_environment(
    command: Command, data: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training images; the test split of CIFAR-10 ships in the package and comes first."""
    shipped: list[tuple[str, str, Path | None]] = []

    def test_split(dataset: str, split: str, folder: Path | None) -> object:
        shipped.append((dataset, split, folder))
        return toy_split(9, size=26)

    monkeypatch.setattr("zoo.data.load_split", test_split)
    monkeypatch.setenv("ZOO_DATA", str(data))
    assert command("train", "toy", "--seed", 3, "-q").code == 0
    assert shipped == [("cifar10", "test", None)]
    assert (zoo_home / "entries" / "toy-seed3").is_dir()


def test_a_run_folder_of_another_seed_is_refused(command: Command, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command("train", "toy", "--seed", 3, "--data", data, "--run-dir", run, "-q").code == 0
    before = listing(run)
    done = command("train", "toy", "--seed", 4, "--data", data, "--run-dir", run, "-q")
    assert (done.code, done.out) == (2, "")
    assert "another recipe, seed or data" in done.err
    assert listing(run) == before
    assert not (store.cache_folder() / "toy-seed4").exists()


def test_threads_are_set(command: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr("training.recipe.load_recipe", lambda _name: replace(fastnet_recipe(), epochs=1))
    assert command("train", "toy", "--seed", 3, "--data", data, "--threads", 3, "-q").code == 0
    assert seen == [3]
