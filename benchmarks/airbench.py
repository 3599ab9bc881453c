"""Seconds to 94 % and to 96 % on CIFAR-10: this project's loop beside airbench's published scripts, on one GPU.

    python -m benchmarks.airbench fastnet --script airbench94_muon.py --data DIR --runs 20
    python -m benchmarks.airbench fastnet96 --script airbench96_faster.py --data DIR --runs 5

Both sides train on all 50,000 images and look at the test images through six views (flips and shifts): for 94 %, the
same network for 8 epochs of 25 batches; for 96 %, the same network for 37 epochs here, and for 45 epochs of the harder
half of each batch there. Here, the recipes have the sources' batch sizes and rates; a first run, which compiles, does
not count, as in the script. The seconds are of training alone, from images that lie on the GPU to weights. The script
(KellerJordan/cifar10-airbench) runs as it is, and its own figures are printed as it prints them. It is not part of this
project: fetch it first. Not measured yet: it needs a CUDA GPU.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.training import wait_for
from training.job import Job
from training.loop import train
from training.recipe import Recipe
from training.recipe_file import load_recipe
from training.run import RunFolder
from tta import TTA, VIEW_SETS
from zoo.data import MEAN_STD, Split, load_all
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
"""By recipe: a budget of the source's accuracy on all images, with rates for its batches (see the recipe)."""


def make_job(recipe: Recipe, images: Split, seed: int) -> Job:
    """Return a job on all images; the hundred that it validates on after each epoch are for no choice."""
    return Job(recipe, seed, "cifar10", images, images.subset(slice(100)), *MEAN_STD["cifar10"])


def run_once(job: Job, test: Split, device: torch.device) -> tuple[float, float]:
    """Return the seconds of one training, and the test accuracy (fraction) through airbench's six views."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), job)
        began = wait_for(device)
        trained = train(job, run, device=device, progress=lambda _row: None, save_every=3600)
        seconds = wait_for(device) - began
    net = TTA(trained.net.to(device), VIEW_SETS["flip+shift1"]).eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(test), 500):
            pixels = torch.from_numpy(test.images[start : start + 500]).to(device)
            labels = torch.from_numpy(test.labels[start : start + 500]).to(device)
            right += int((net(normalize(pixels, *job.stats)).argmax(1) == labels).sum())
    return seconds, right / len(test)


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
    part, val, test = load_all("cifar10", arguments.data)
    images = Split(np.concatenate((part.images, val.images)), np.concatenate((part.labels, val.labels)), part.classes)
    recipe = load_recipe(arguments.recipe, OVERRIDES[arguments.recipe])
    results = []
    for number in range(arguments.runs + 1):
        seconds, accuracy = run_once(make_job(recipe, images, number), test, device)
        print(f"menagerie, run {number or 'to warm up'}: {seconds:.3f} s, {100 * accuracy:.2f} %")
        results.append((seconds, accuracy))
    times, accuracies = zip(*results[1:], strict=True)
    print(f"menagerie: {statistics.mean(times):.3f} s, {100 * statistics.mean(accuracies):.2f} % (n = {len(times)})")
    if arguments.script:
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603  # what the user named
            [sys.executable, arguments.script.resolve()],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=arguments.data,
        )
        print(
            "\n".join(line for line in done.stdout.splitlines() if "eval" in line or "Mean" in line or "epoch" in line)
        )
        print(f"airbench: {time.perf_counter() - began:.0f} s altogether")


if __name__ == "__main__":
    main()
