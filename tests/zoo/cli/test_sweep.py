"""`zoo sweep` from its arguments to its table, with a trainer that takes no time; and once with the real one."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import toy_split
from tests.training.figures import size_of
from tests.training.stand_in import PROGRAM, ROOT, starts, until
from tests.zoo.conftest import Outcome, write_mosaic
from training.cluster import Cluster
from training.trial import Outcome as Result
from training.trial import Trial
from zoo import store
from zoo.entry import Entry

Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    """Train nothing, and have nothing builtin."""
    del package
    monkeypatch.setattr("zoo.cli.trials.PROGRAM", PROGRAM)


def test_a_grid_is_trained_shown_and_kept(command: Command, zoo_home: Path) -> None:
    words = ("sweep", "fastnet", "--seeds", "1-2", "--grid", "optimizer.lr=0.1,0.2", "--grid", "batch_size=500")
    done = command(*words, "--jobs", 2)
    assert done.code == 0, done.err
    rows = [re.findall(r"[^│┃\s][^│┃]*[^│┃\s]", line) for line in done.out.splitlines() if "│" in line]
    assert rows == [
        ["0.1", "500", "2 of 2", "90.15 %", "0.07", "best"],
        ["0.2", "500", "2 of 2", "89.15 %", "0.07"],
    ]
    out = zoo_home / "sweeps" / "fastnet-lr-batch_size"
    assert {p.name for p in out.iterdir()} == {"entries", "heatmap.png", "logs", "runs", "sweep.csv"}
    with (out / "sweep.csv").open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [(r["optimizer.lr"], r["batch_size"], r["seed"], r["state"]) for r in kept] == [
        (rate, "500", seed, "done") for rate in ("0.1", "0.2") for seed in ("1", "2")
    ]
    assert [float(r["val_flip"]) for r in kept] == pytest.approx([0.901, 0.902, 0.891, 0.892])
    assert size_of(out / "heatmap.png") > (300, 300)
    assert store.FolderSource(out / "entries").names() == sorted(r["name"] for r in kept)
    assert store.FolderSource(store.cache_folder()).names() == [], "a grid does not flood the zoo"
    assert done.err.splitlines()[-1] == f"{out / 'sweep.csv'}, heatmap.png"
    assert "0.1 %" not in done.out + done.err, "nothing is said of the test split, where the stand-in has 10 %"

    again = command(*words)
    assert (again.code, again.out) == (0, done.out)
    assert again.err.count("(there already)") == 4
    assert [len(starts(run)) for run in (out / "runs").iterdir()] == [1] * 4


def test_seeds_alone_fill_the_zoo(command: Command, zoo_home: Path) -> None:
    done = command("sweep", "fastnet", "--seeds", "3,5", "--json", "-q")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert store.FolderSource(store.cache_folder()).names() == ["fastnet-seed3", "fastnet-seed5"]
    assert {k: found[k] for k in ("recipe", "dataset", "split", "views", "picture")} == {
        "recipe": "fastnet",
        "dataset": "cifar10",
        "split": "val",
        "views": "flip",
        "picture": None,
    }
    (point,) = found["points"]
    assert point == {
        "settings": {},
        "runs": 2,
        "mean": pytest.approx(0.904),
        "std": pytest.approx(0.002 / 2**0.5),
    }
    assert [(t["seed"], t["val"]["flip"]) for t in found["trials"]] == [(3, 0.903), (5, 0.905)]
    assert (zoo_home / "runs" / "fastnet-seed3" / "state").exists(), "where `zoo train` would go on"


def test_a_changed_recipe_stays_apart(command: Command, zoo_home: Path, tmp_path: Path) -> None:
    done = command("sweep", "fastnet", "--seeds", "1", "--set", "epochs=3", "--out", tmp_path / "mine", "-q")
    assert done.code == 0
    assert not (zoo_home / "entries").exists()
    (name,) = store.FolderSource(tmp_path / "mine" / "entries").names()
    assert re.fullmatch(r"fastnet-[0-9a-f]{8}-seed1", name)


def test_to_another_shelf(command: Command, zoo_home: Path, tmp_path: Path) -> None:
    assert command("sweep", "fastnet", "--seeds", "1", "--to", tmp_path / "shelf", "-q").code == 0
    assert store.FolderSource(tmp_path / "shelf").names() == ["fastnet-seed1"]
    assert not (zoo_home / "entries").exists()


def test_a_failure_is_told_and_the_rest_is_done(command: Command) -> None:
    done = command("sweep", "fastnet", "--seeds", "12-14")
    assert done.code == 1
    assert "2 of 3" in done.out
    assert "91.30 %" in done.out, "the mean of 91.2 and 91.4"
    *_, last = done.err.splitlines()
    assert last.startswith(
        "error: 1 of 3 trainings failed, first fastnet-seed13: the loss is nan in epoch 2 (step 7): "
        "lower the learning rate ("
    )
    assert last.endswith("fastnet-seed13.log); the same command tries them again")
    again = command("sweep", "fastnet", "--seeds", "12-14", "--json", "-q")
    assert again.code == 1
    assert [t["state"] for t in json.loads(again.out)["trials"]] == ["done", "failed", "done"]


def test_options_reach_the_training(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "import sys; print(*sys.argv[1:]); sys.exit(1)"
    monkeypatch.setattr("zoo.cli.trials.PROGRAM", shown)
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text('base = "fastnet"\n')
    done = command(
        "sweep", "recipe.toml", "--seeds", 1, "--data", "d", "--dataset", "cifar100", "--device", "cpu", "-q"
    )
    assert done.code == 1
    told = next((tmp_path / "zoo-home" / "sweeps" / "recipe-cifar100" / "logs").glob("*.log")).read_text()
    assert f"train {tmp_path / 'recipe.toml'} --seed 1 --name recipe-cifar100-" in told
    assert f"--dataset cifar100 --data {tmp_path / 'd'} --device cpu" in told


def test_several_gpus_are_dealt_out(command: Command, zoo_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("STAND_IN_PAUSE", "0.3")
    assert command("sweep", "fastnet", "--seeds", "1-2", "-q").code == 0
    seen = [starts(zoo_home / "runs" / f"fastnet-seed{seed}")[0][3] for seed in (1, 2)]
    assert seen == ["4", "6"], "one at a time each, without --jobs"
    assert command("sweep", "fastnet", "--seeds", "3", "-q", "--device", "cpu").code == 0
    assert starts(zoo_home / "runs" / "fastnet-seed3")[0][3] == "4,6", "the CPU needs no choice"


def test_a_cluster_gets_absolute_paths_and_the_cores_of_a_trial(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str | int, Any]] = []

    def run_on_cluster(trials: list[Trial], program: str, cluster: Cluster, **more: Any) -> None:  # noqa: ANN401
        asked.append({"program": program, "cluster": cluster, "shared": more["shared"], "env": more["environment"]})
        for trial in trials:
            asked[0][trial.seed] = trial.arguments
            more["report"](Result(trial, {"flip": 0.9}))

    monkeypatch.setattr("training.cluster.run_on_cluster", run_on_cluster)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_HOME", "home")
    monkeypatch.setenv("ZOO_DATA", "data")
    words = ("sweep", "fastnet", "--seeds", "1-2", "--cluster", "head:6379", "--cpus-per-trial", "4", "--out", "out")
    done = command(*words, "--retries", "5", "-q")
    assert done.code == 0, done.err
    (found,) = asked
    assert found["program"] == PROGRAM
    assert found["cluster"] == Cluster("head:6379", cpus=4, retries=5)
    assert found["shared"] == tmp_path / "out"
    assert found["env"] == {"ZOO_HOME": str(tmp_path / "home"), "ZOO_DATA": str(tmp_path / "data")}
    assert found[2] == (
        *("train", "fastnet", "--seed", "2", "--name", "fastnet-seed2", "--dataset", "cifar10"),
        *("--threads", "4", "--device", "cpu"),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fastnet",), "give --seeds 1-5, --grid optimizer.lr=0.05,0.1,0.2, or both"),
        (("fastent", "--seeds", "1"), "unknown recipe 'fastent' (did you mean 'fastnet'?)"),
        (("fastnet", "--seeds", "x"), "--seeds 'x': numbers and ranges are needed"),
        (("fastnet", "--grid", "lr"), "--grid 'lr': KEY=VALUE,VALUE,... is needed"),
        (("fastnet", "--grid", "epochz=1,2"), "unknown key 'epochz' (did you mean 'epochs'?)"),
        (("fastnet", "--grid", "epochs=1,0"), "epochs"),
        (("fastnet", "--grid", "epochs=1", "--to", "x"), "--to is for seeds of a recipe as it is"),
        (("fastnet", "--seeds", "1", "--cpus-per-trial", "2"), "--cpus-per-trial is for --cluster"),
        (("fastnet", "--seeds", "1", "--cluster", "auto", "--jobs", "2"), "--jobs is for this machine"),
    ],
)
def test_usage_errors_come_before_anything_is_trained(
    command: Command, zoo_home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("training.pool.Running", lambda *_args: pytest.fail("training began"))
    done = command("sweep", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not zoo_home.exists()


def test_ctrl_c_stops_the_trainings_and_says_how_to_go_on(zoo_home: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import zoo.cli.trials as t; t.PROGRAM = {PROGRAM!r}; "
        "from zoo.cli import main; main()"
    )
    words = ["sweep", "fastnet", "--grid", "batch_size=500,600", "--seeds", "1", "--device", "cpu"]
    environment = os.environ | {"STAND_IN_EPOCHS": "1000", "STAND_IN_PAUSE": "0.05"}
    sweep = subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    runs = zoo_home / "sweeps" / "fastnet-batch_size" / "runs"
    until(lambda: runs.is_dir() and any((run / "state").exists() for run in runs.iterdir()), 60)
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, out) == (130, "")
    *_, last = err.splitlines()
    told, again = last.split(". Go on with: ")
    assert told == "error: stopped: 0 of 2 trainings are done"
    assert again == "zoo sweep fastnet --grid batch_size=500,600 --seeds 1 --device cpu"
    (run,) = runs.iterdir()
    (log,) = (runs.parent / "logs").glob("*.log")
    assert log.read_text().endswith("error: stopped: go on with the same command\n")
    before = int((run / "state").read_text())
    environment |= {"STAND_IN_EPOCHS": str(before + 1)}
    done = subprocess.run([sys.executable, "-c", code, *words, "-q"], env=environment, check=False, timeout=60)
    assert done.returncode == 0
    assert [begun for begun, *_ in starts(run)] == [0, before]


RECIPE = """base = "fastnet"
epochs = 2
batch_size = 8
[arch_args]
widths = [8, 8, 8]
[whitening]
images = 20
eps = 5e-4
"""


@pytest.mark.slow
def test_a_sweep_of_the_real_trainer(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    splits = {"train-1": toy_split(30, size=26), "train-2": toy_split(30, 1, size=26), "test": toy_split(9, size=26)}
    data, recipe = write_mosaic(tmp_path / "data", splits), tmp_path / "toy.toml"
    recipe.write_text(RECIPE)
    words = ("sweep", recipe, "--grid", "label_smoothing=0.0,0.2", "--data", data, "--json", "-q")
    done = command(*words)
    assert done.code == 0, done.err
    trials = json.loads(done.out)["trials"]
    for trial in trials:
        entry = Path(trial["entry"])
        card = Entry(entry.name, entry, "out").card
        assert trial["val"] == card.metrics["val"]
        assert card.seed == 1
        run = entry.parents[1] / "runs" / entry.name
        smoothing = tomllib.loads((run / "recipe.toml").read_text())["label_smoothing"]
        assert float(trial["settings"]["label_smoothing"]) == smoothing
    again = command(*words)
    assert json.loads(again.out)["trials"] == trials
