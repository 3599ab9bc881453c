"""Images a second of this project's training loop beside a plain PyTorch loop, on one machine in one run.

    python -m benchmarks.training                 # fastnet on the CPU, 2 threads; about five minutes
    python -m benchmarks.training --device cuda --steps 60

Four contenders train the same network (fastnet) on the CIFAR-10 images that ship with the package, each in a process of
its own, in turns:

- `menagerie`: `training.loop.train` with the recipe as it ships, validation of 100 images and saved states included;
- `plain`: what tutorials show: a DataLoader over torchvision transforms (the better of no and two workers), fp32, the
  default memory layout, Nesterov SGD;
- `plain, matched`: the same loop in bf16 autocast and channels-last, as the recipe runs;
- `bare`: forward and backward passes alone, over one batch that lies ready, in bf16 and channels-last, with the
  allocator setting of `zoo train`.

A ratio is taken in each round between neighbours in time, and the median of the rounds is what counts.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from training.job import Job
from training.loop import train
from training.prepare import prepare_network
from training.recipe_file import load_recipe
from training.run import RunFolder
from tta import autocast
from zoo.allocator import keep_freed_memory
from zoo.data import MEAN_STD, Split, load_split
from zoo.images import normalize

RECIPE = "fastnet"
ROOT = Path(__file__).resolve().parent.parent


def make_job(steps: int, batch_size: int) -> Job:
    """Return two epochs of `steps` steps each; the first warms up."""
    images = load_split("cifar10", "test")
    count = steps * batch_size
    rows = [row % (len(images) - 100) for row in range(count)]
    part = Split(images.images[rows], images.labels[rows], images.classes)
    recipe = replace(load_recipe(RECIPE), epochs=2, batch_size=batch_size)
    return Job(recipe, 1, "cifar10", part, images.subset(slice(-100, None)), *MEAN_STD["cifar10"])


def wait_for(device: torch.device) -> float:
    """Return the time once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run_menagerie(job: Job, device: torch.device) -> float:
    """Return the seconds of the second epoch."""
    keep_freed_memory()
    ends: list[float] = []

    def progress(row: dict[str, float] | None) -> None:
        if row is not None:
            ends.append(wait_for(device))

    with tempfile.TemporaryDirectory() as folder:
        train(job, RunFolder(Path(folder), job), device=device, progress=progress)
    return ends[1] - ends[0]


def loader(job: Job, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return what a tutorial would use: each image decoded, cropped, flipped and normalised on its own."""
    mean, std = job.stats
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=2, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )

    pixels = torch.from_numpy(job.part.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(job.part.labels)

    class Images(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
            return transform(pixels[row]), labels[row]

    return DataLoader(
        Images(),
        batch_size=job.recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def run_plain(job: Job, device: torch.device, *, matched: bool, workers: int) -> float:
    """Return the seconds of the second epoch."""
    net = prepare_network(job).to(device).train()
    layout = torch.channels_last if matched else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    batches = loader(job, workers)
    seconds = 0.0
    for _ in range(2):
        began = wait_for(device)
        for images, labels in batches:
            inputs = images.to(device, non_blocking=True).to(memory_format=layout)
            with autocast(device, "bf16" if matched else "fp32"):
                logits = net(inputs)
            loss = functional.cross_entropy(
                logits.float(), labels.to(device), label_smoothing=job.recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds = wait_for(device) - began
    return seconds


def run_bare(job: Job, device: torch.device, steps: int) -> float:
    """Return the seconds of as many forward and backward passes as an epoch has steps."""
    keep_freed_memory()
    net: nn.Module = prepare_network(job).to(device).train()
    size = job.recipe.batch_size
    images = normalize(torch.from_numpy(job.part.images[:size]).to(device), *job.stats)
    labels = torch.from_numpy(job.part.labels[:size]).to(device)
    began = 0.0
    for step in range(2 * steps):
        if step == steps:
            began = wait_for(device)
        with autocast(device, "bf16"):
            logits = net(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=job.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        net.zero_grad()
    return wait_for(device) - began


def run_one(name: str, job: Job, device: torch.device, steps: int) -> float:
    """Return the images a second of one contender, in this process."""
    words = name.split()
    if words[0] == "menagerie":
        seconds = run_menagerie(job, device)
    elif words[0] == "bare":
        seconds = run_bare(job, device, steps)
    else:
        seconds = run_plain(job, device, matched="matched" in words, workers=int(words[-1]))
    return len(job.part) / seconds


CONTENDERS = ("menagerie", "plain 0", "plain 2", "plain matched 0", "plain matched 2", "bare")
"""Names; a plain loop's ends in its number of workers."""


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield each round's images a second, by contender."""
    for _ in range(arguments.rounds):
        speeds = {}
        for name in CONTENDERS:
            words = [sys.executable, "-m", "benchmarks.training", "--one", name]
            for option in ("device", "steps", "batch_size", "threads"):
                words += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
            done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
            speeds[name] = float(done.stdout.split()[-1])
            print(f"  {name:<18}{speeds[name]:>10,.0f} images/s", file=sys.stderr)
        yield speeds


def best(speeds: dict[str, float], kind: str) -> float:
    """Return the speed of a plain loop at its better number of workers."""
    return max(speeds[f"{kind} 0"], speeds[f"{kind} 2"])


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Training speed beside a plain PyTorch loop.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of each epoch; the second of two is timed")
    parser.add_argument("--batch-size", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.one:
        print(run_one(arguments.one, make_job(arguments.steps, arguments.batch_size), device, arguments.steps))
        return
    rounds = list(measure(arguments))
    ours = [r["menagerie"] for r in rounds]
    ratios = {
        "matched": statistics.median(r["menagerie"] / best(r, "plain matched") for r in rounds),
        "as shipped": statistics.median(r["menagerie"] / best(r, "plain") for r in rounds),
        "bare": statistics.median(r["menagerie"] / r["bare"] for r in rounds),
    }
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{arguments.threads} CPU threads"
    about = {
        "device": hardware,
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}",
        "rounds": len(rounds),
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
    }
    if arguments.json:
        print(json.dumps({**about, "images_per_second": rounds, "ratios": ratios}))
        return
    print(f"{RECIPE}, batches of {arguments.batch_size}, {len(rounds)} rounds; {hardware}; {about['versions']}")
    print(f"menagerie              {statistics.median(ours):>8,.0f} images/s")
    for kind in ("plain", "plain matched"):
        print(f"{kind:<22} {statistics.median(best(r, kind) for r in rounds):>8,.0f} images/s")
    print(f"bare forward+backward  {statistics.median(r['bare'] for r in rounds):>8,.0f} images/s")
    print(f"menagerie / plain, at the same precision and layout: {ratios['matched']:.2f}")
    print(f"menagerie / plain, each as it ships:                 {ratios['as shipped']:.2f}")
    print(f"menagerie / bare forward+backward:                   {ratios['bare']:.2f}")


if __name__ == "__main__":
    main()
