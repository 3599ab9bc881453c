"""Seconds to 94 % and to 96 % on CIFAR-10: this project's loop beside airbench's published scripts, on one GPU.

    python -m benchmarks.airbench fastnet --script airbench94_muon.py --data DIR --runs 20
    python -m benchmarks.airbench fastnet96 --script airbench96_faster.py --data DIR --runs 5

Both sides train on all 50,000 images and look at the test images through six views (flips and shifts): for 94 %, the
same network for 8 epochs of 25 batches; for 96 %, the same network for 37 epochs here (a guess), and for 45 epochs of
the harder half of each batch there. The recipes get the sources' batch sizes and rates.

The clock: training, and the six views of the test images. Outside it on both sides: reading data, making the network.
Here, the whitening is outside too (milliseconds), and a look at 100 validation images after each epoch is inside;
there, looking at the test images after each epoch is outside. The first run of both sides, which compiles, does not
count.

The script (KellerJordan/cifar10-airbench) runs as it is, on the same images. It is not part of this project: fetch it
first. Not measured yet: it needs a CUDA GPU.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.training import wait_for
from training.job import Job
from training.loop import train
from training.recipe import Recipe
from training.recipe_file import load_recipe
from tta import TTA, VIEW_SETS
from zoo.data import MEAN_STD, Split, load_all
from zoo.errors import MenagerieError
from zoo.images import normalize

OVERRIDES = {
    "fastnet": (
        "epochs=8",
        "batch_size=2000",
        "optimizer.lr=106",
        "groups.1.lr=1340",
        "groups.2.lr=0.24",
        "compile=true",
    ),
    "fastnet96": (
        "epochs=37",
        "batch_size=1024",
        "optimizer.lr=1.1739",
        "groups.0.lr=75.13",
        "groups.2.lr=3799",
    ),
}
"""By recipe: a budget on all images, with rates for its batches (see the recipe)."""


def make_job(recipe: Recipe, images: Split, seed: int) -> Job:
    """Return a job on all images; the hundred that it validates on after each epoch are for no choice."""
    return Job(recipe, seed, "cifar10", images, images.subset(slice(100)), *MEAN_STD["cifar10"])


def run_once(job: Job, test: Split, device: torch.device) -> tuple[float, float]:
    """Return the seconds of one training and its test, and the test accuracy (fraction) through the six views."""
    trained = train(job, None, device=device, progress=lambda _row: None)
    net = TTA(trained.net.to(device), VIEW_SETS["flip+shift1"]).eval()
    images, labels = (torch.from_numpy(array).to(device) for array in (test.images, test.labels))
    began = wait_for(device)
    with torch.inference_mode():
        parts = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
        right = sum(int((net(normalize(some, *job.stats)).argmax(1) == wanted).sum()) for some, wanted in parts)
    return trained.rows[-1]["seconds"] + wait_for(device) - began, right / len(test)


def write_data(folder: Path, images: Split, test: Split) -> None:
    """Write both splits as the scripts keep them, below a folder `cifar10`."""
    (folder / "cifar10").mkdir()
    for name, split in (("train", images), ("test", test)):
        content = {
            "images": torch.from_numpy(split.images),
            "labels": torch.from_numpy(split.labels),
            "classes": list(split.classes),
        }
        torch.save(content, folder / "cifar10" / f"{name}.pt")


def results_of(lines: Iterable[str]) -> list[tuple[float, float]]:
    """Return (seconds, accuracy as a fraction) of each run of a script: the last columns of its `eval` rows."""
    numbers = (re.findall(r"\d+\.\d+", line) for line in lines if re.search(r"\|\s+eval\s+\|", line))
    return [(float(found[-1]), float(found[-2])) for found in numbers]


def run_script(script: Path, images: Split, test: Split) -> list[tuple[float, float]]:
    """Run a script of airbench's and return its results, as `results_of`; what it prints is printed as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), images, test)
        command = [sys.executable, "-u", str(script.resolve())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:  # noqa: S603  # named
            lines = []
            for line in process.stdout or ():
                print(line, end="")
                lines.append(line)
    found = results_of(lines)
    if process.returncode or not found:
        raise MenagerieError(f"{script} ended with code {process.returncode} and printed {len(found)} results")
    return found


def report(side: str, results: list[tuple[float, float]]) -> None:
    """Print the means over all runs but the first."""
    if len(results) > 1:
        seconds, accuracies = (statistics.mean(values) for values in zip(*results[1:], strict=True))
        print(f"{side}: {seconds:.3f} s, {100 * accuracies:.2f} % (n = {len(results) - 1})")


def main() -> None:
    """Measure both, and print a line for each run."""
    parser = argparse.ArgumentParser(description="Seconds to 94 or 96 % beside airbench's script.")
    parser.add_argument("recipe", choices=OVERRIDES)
    parser.add_argument("--script", type=Path, help="airbench's; without it, this project's side alone")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True  # as the scripts
    part, val, test = load_all("cifar10", arguments.data)
    images = Split(np.concatenate((part.images, val.images)), np.concatenate((part.labels, val.labels)), part.classes)
    recipe = load_recipe(arguments.recipe, OVERRIDES[arguments.recipe])
    results = []
    for number in range(arguments.runs + 1):
        results.append(run_once(make_job(recipe, images, number), test, device))
        print(f"menagerie, run {number or 'to warm up'}: {results[-1][0]:.3f} s, {100 * results[-1][1]:.2f} %")
    report("menagerie", results)
    if arguments.script:
        report("airbench", run_script(arguments.script, images, test))


if __name__ == "__main__":
    main()
