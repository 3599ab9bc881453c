"""`zoo train` killed again and again, at random moments from its start to the filing of its entries."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.conftest import noisy_recipe
from tests.zoo.conftest import listing
from training.recipe import Average, Recipe, Schedule

ROOT = Path(__file__).parents[3]
KILLS = 6


@pytest.mark.slow
def test_the_entries_are_those_of_an_undisturbed_run(
    data: Path, tmp_path: Path, write_recipe: Callable[[Recipe], Path]
) -> None:
    recipe = noisy_recipe(
        name="many",
        epochs=12,
        arch_args={"depth": 10, "width": 1, "dropout": 0.3},
        schedule=Schedule("restarts", cycles=3),
        snapshots=True,
        average=Average("swag", every=2, start=0.25, rank=2, samples=2),
    )
    path = write_recipe(recipe)

    def start(where: str) -> subprocess.Popen[str]:
        folders = ["--to", tmp_path / where, "--run-dir", tmp_path / f"{where}-run", "--threads", 1]
        words = ["train", path, "--seed", 3, "--data", data, "-q", *folders]
        run = [sys.executable, "-c", "from zoo.cli import main; main()", *map(str, words)]
        return subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    began = time.monotonic()
    with start("whole") as process:
        process.communicate()
    seconds = time.monotonic() - began
    assert process.returncode == 0
    moments = [random.SystemRandom().uniform(0.3, 1) * seconds for _ in range(KILLS)]
    for moment in moments:
        with start("killed") as process:
            time.sleep(moment)
            process.kill()
    with start("killed") as process:
        _, said = process.communicate()
    # A run that was killed after filing its entry is done: the same command says so.
    assert process.returncode == 0 or "exists already" in said, said
    names = sorted(folder.name for folder in (tmp_path / "whole").iterdir())
    assert names == ["many-seed3", *(f"many-seed3-{kind}{n}" for kind in ("sample", "snapshot") for n in (1, 2))]
    for name in names:
        one, other = listing(tmp_path / "whole" / name), listing(tmp_path / "killed" / name)
        for file in ("model.safetensors", "predictions.safetensors"):
            assert one[file] == other[file], f"{name}, killed after {moments} of {seconds:.1f} s"
    assert [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")] == []
