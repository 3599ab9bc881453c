"""A trainer that trains nothing: the arguments, files and manners of `zoo train`, in a fraction of a second.

A network's accuracy on the validation split is 0.9, plus 0.001 for each seed, minus 0.01 for each doubling or halving
of the learning rate beyond 0.1. Seed 13 fails. Environment: `STAND_IN_EPOCHS`, and `STAND_IN_PAUSE`, its seconds an
epoch.
"""

import argparse
import math
import os
import signal
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from training.trial import Trial
from zoo import store
from zoo.card import Card
from zoo.entry import write_entry

ROOT = Path(__file__).parents[2]
PROGRAM = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from training.trial import prepare_process; prepare_process(); "
    "from tests.training.stand_in import main; main()"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["train"])
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--replace", action="store_true")
    for option in ("seed", "name", "to", "run-dir", "dataset", "data", "size", "teacher", "device", "threads"):
        parser.add_argument(f"--{option}")
    given = parser.parse_args()
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: stopped.append(number))

    run = Path(given.run_dir or store.home() / "runs" / given.name)
    run.mkdir(parents=True, exist_ok=True)
    state = run / "state"
    done = int(state.read_text()) if state.exists() else 0
    with (run / "starts").open("a") as file:
        file.write(f"{done} {os.getppid()} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
    for epoch in range(done, int(os.environ.get("STAND_IN_EPOCHS", "2"))):
        time.sleep(float(os.environ.get("STAND_IN_PAUSE", "0")))
        state.write_text(str(epoch + 1))
        sys.stderr.write(f"epoch {epoch + 1}\n")
        if stopped:
            sys.stderr.write("error: stopped: go on with the same command\n")
            sys.exit(130)
    if given.seed == "13":
        sys.exit("error: the loss is nan in epoch 2 (step 7): lower the learning rate\n")

    flip = accuracy(int(given.seed), given.set)
    card = Card(
        name=given.name,
        architecture="fastnet",
        dataset=given.dataset or "cifar10",
        classes=("cat", "dog"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        input_size=(32, 32),
        recipe=Path(given.recipe).stem if given.recipe.endswith(".toml") else given.recipe,
        seed=int(given.seed),
        metrics={"val": {"none": flip - 0.01, "flip": flip}, "test": {"none": 0.1, "flip": 0.1}},
        training={
            "epochs": _epochs(given.recipe, given.set),
            "seconds": 7,
            **({"overrides": given.set} if given.set else {}),
        },
    )
    write_entry(Path(given.to or store.cache_folder()) / given.name, card, b"no network's", None, replace=given.replace)


def accuracy(seed: int, overrides: list[str]) -> float:
    """Return the accuracy that a training reaches; a test may put another function in this one's place."""
    settings = dict(text.split("=", 1) for text in overrides)
    rate = float(settings.get("optimizer.lr", "0.1"))
    return 0.9 + 0.001 * seed - 0.01 * abs(math.log2(rate / 0.1))


def _epochs(recipe: str, overrides: list[str]) -> int:
    path = Path(recipe) if recipe.endswith(".toml") else ROOT / "training" / "recipes" / f"{recipe}.toml"
    stated = int(tomllib.loads(path.read_text(encoding="utf-8"))["epochs"])
    return next((int(text.removeprefix("epochs=")) for text in overrides if text.startswith("epochs=")), stated)


def starts(run: Path) -> list[tuple[int, int, int, str]]:
    """Return a run's starts: epochs done before, the parent's and its own process id, the GPUs it saw."""
    lines = (line.split() for line in (run / "starts").read_text().splitlines())
    return [(int(done), int(parent), int(own), gpus) for done, parent, own, gpus in lines]


def trial_in(folder: Path, seed: int = 1, name: str | None = None) -> Trial:
    called = name or f"fastnet-lr-seed{seed}"
    words = ("train", "fastnet", "--seed", str(seed), "--name", called, "--to", str(folder / "entries"), "--replace")
    return Trial(
        name=called,
        seed=seed,
        settings={},
        arguments=(*words, "--run-dir", str(folder / "runs" / called)),
        entries=folder / "entries",
        log=folder / "logs" / f"{called}.log",
        same={"recipe": "fastnet", "seed": seed},
    )


def until(ready: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def gone(process: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
