"""`zoo train` from its arguments to an entry that loads, on a mosaic folder of a few dozen images."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import random_split
from tests.training.conftest import fastnet_recipe, fit
from tests.zoo.conftest import Outcome, file_entry, listing, write_mosaic
from training.job import Job
from zoo import store
from zoo.cli.progress import Progress
from zoo.data import MEAN_STD, load_training
from zoo.entry import Entry

STEPS = 12  # two epochs of the 50 images that are not held out, eight a batch

Command = Callable[..., Outcome]


pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.load_all", lambda *_args, **_options: pytest.fail("the data was read"))
    monkeypatch.setattr("training.loop.train", lambda *_args, **_kwargs: pytest.fail("training began"))


def stored_weights(entry: Entry) -> dict[str, bytes]:
    return {name: value.half().numpy().tobytes() for name, value in entry.load().state_dict().items()}


def expected_weights(data: Path, folder: Path, seed: int, dataset: str = "cifar10") -> dict[str, bytes]:
    """What the library trains on the same images."""
    job = Job(fastnet_recipe(), seed, dataset, *load_training(dataset, data), *MEAN_STD[dataset])
    state = fit(job, folder).net.state_dict()
    return {name: value.half().numpy().tobytes() for name, value in state.items()}


@pytest.mark.usefixtures("every_line")
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
    assert card.trained_on["images"] == 50
    assert {name: len(split.labels) for name, split in entry.predictions().splits.items()} == {"val": 10, "test": 9}
    assert float(found[2]) == pytest.approx(100 * card.metrics["val"]["flip"], abs=0.006)

    lines = done.err.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert sum(line.startswith("training toy-seed3: ") for line in lines) == 10
    assert any(line.startswith(f"training toy-seed3: {STEPS}/{STEPS} steps, ") for line in lines)
    assert lines[-1].startswith("predictions: 19/19 images, ")
    assert {p.name for p in (zoo_home / "runs" / "toy-seed3").iterdir()} == {
        *("curves.png", "metrics.csv", "recipe.toml", "run.json", "schedule.png", "state.pt")
    }


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


def test_json(command: Command, data: Path, zoo_home: Path) -> None:
    done = command("train", "toy", "--seed", 3, "--data", data, "--json")
    assert done.code == 0
    card = store.find("toy-seed3").card
    folder = str(zoo_home / "entries" / "toy-seed3")
    assert json.loads(done.out) == [
        {"name": "toy-seed3", "folder": folder, "val_accuracy": card.metrics["val"]["flip"]}
    ]
    assert "epoch 2  " in done.err


def test_cifar100_is_part_of_the_name(command: Command, tmp_path: Path) -> None:
    splits = {"train-1": random_split(600, 100, size=26), "test": random_split(100, 100, seed=1, size=26)}
    folder = write_mosaic(tmp_path / "data", splits)
    words = ("--set", "epochs=1", "--set", "batch_size=250")
    assert command("train", "toy", "--seed", 0, "--data", folder, *words, "-q").code == 0
    card = store.find("toy-cifar100-seed0").card
    assert (card.dataset, card.mean, card.std) == ("cifar100", *MEAN_STD["cifar100"])
    assert len(card.classes) == 100


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
        (("toy",), "--seed is missing: a number, which decides weights, order and augmentation"),
        (("toy", "--seed", "-1"), "-1 is not in the range 0<=x<="),
        (("toy", "--seed", "x"), "'x' is not a valid integer"),
        (("toy", "--dry-run", "--json"), "--json says what was filed, and --dry-run files nothing"),
        (("toy", "--seed", "1", "--threads", "0"), "0 is not in the range x>=1"),
        (("toy", "--seed", "1", "--name", "../mine"), "not a valid entry name: '../mine'"),
        (("toy", "--seed", "1", "--name", "Mine"), "not a valid entry name: 'Mine'"),
        (("toy", "--seed", "1", "--set", "epochs"), "--set 'epochs': KEY=VALUE is needed"),
        (("toy", "--seed", "1", "--set", "epoch=3"), "recipe 'toy': unknown key 'epoch' (did you mean 'epochs'?)"),
        (("toy", "--seed", "1", "--teacher", "big"), "--teacher 'big': recipe 'toy' has no [distill] table"),
        (("toy", "--seed", "1", "--set", "distill.teacher=given"), "recipe 'toy' distils: give --teacher NAME"),
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
    done = command("train", "toy", "--seed", 3, "--data", data, "--dataset", "cifar100")
    assert (done.code, done.out) == (1, "")
    assert "has 10 classes, cifar100 has 100: this is another dataset" in done.err
    done = command("train", "toy", "--seed", 3, "--dataset", "cifar11")
    assert (done.code, done.out) == (2, "")
    assert "unknown dataset 'cifar11' (did you mean 'cifar10" in done.err


def test_data_may_come_from_the_environment(
    command: Command, data: Path, zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine").symlink_to(data)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "all"))
    assert command("train", "toy", "--seed", 3, "--dataset", "mine", "-q").code == 0
    assert (zoo_home / "entries" / "toy-mine-seed3").is_dir()


def test_a_run_folder_of_another_seed_is_refused(command: Command, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command("train", "toy", "--seed", 3, "--data", data, "--run-dir", run, "-q").code == 0
    before = listing(run)
    done = command("train", "toy", "--seed", 4, "--data", data, "--run-dir", run, "-q")
    assert (done.code, done.out) == (2, "")
    assert "another recipe, seed, data or teacher" in done.err
    assert listing(run) == before
    assert not (store.cache_folder() / "toy-seed4").exists()


def test_threads_are_set(command: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    assert command("train", "toy", "--seed", 3, "--data", data, "--threads", 3, "--set", "epochs=1", "-q").code == 0
    assert seen == [3]
