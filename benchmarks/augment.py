"""Augmented images a second: this project's batches beside torchvision's per-image transforms, in one run.

    python -m benchmarks.augment                   # on the CPU; about two minutes on two cores
    python -m benchmarks.augment --device cuda

Both do the same to the CIFAR-10 images that ship with the package, in batches of 128: random crop of the reflected
image, random flip, AutoAugment (CIFAR-10), normalisation, a 16-pixel square hidden, and mixup or CutMix for each batch.

- `menagerie`: `training.augment.Batches`, the split on the device;
- `torchvision`: a DataLoader over `torchvision.transforms.v2`, with MixUp and CutMix in the collate function, as
  torchvision's documentation shows it, and `RandomErasing` of a fixed square as cutout. It takes PIL images or
  tensors, with no or two workers, whichever of the four turns out to be fastest here; workers stay alive between
  epochs.

After an epoch to warm up they take turns; the figure is the median of the rounds. With `--device cuda` the images end
there in both cases.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from training.augment import Batches
from training.recipe import Augment
from zoo.data import MEAN_STD, Split, load_split

BATCH_SIZE, PADDING, CUTOUT, MIXUP_ALPHA, CUTMIX_ALPHA = 128, 4, 16, 0.2, 1.0
CLASSES = 10
MEAN, STD = MEAN_STD["cifar10"]


class Images(Dataset[tuple[Tensor, int]]):
    """A split as torchvision's datasets present one: one image at a time, transformed.

    Args:
        split: images and labels.
        kind: `pil`, or `tensor` for uint8 `[3, H, W]`.
    """

    def __init__(self, split: Split, kind: str) -> None:
        self._split = split
        self._tensors = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous() if kind == "tensor" else None
        height, width = split.images.shape[1:3]
        self._transform = v2.Compose(
            [
                v2.RandomCrop((height, width), padding=PADDING, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
                *([v2.ToImage()] if kind == "pil" else []),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(p=1, scale=(CUTOUT**2 / (height * width),) * 2, ratio=(1, 1)),
            ]
        )

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self._split.images[row]) if self._tensors is None else self._tensors[row]
        return self._transform(image), int(self._split.labels[row])


class Mix:
    """The collate function of torchvision's documentation; a class, so that it reaches workers however they start."""

    def __init__(self) -> None:
        self._mix = v2.RandomChoice(
            [v2.MixUp(alpha=MIXUP_ALPHA, num_classes=CLASSES), v2.CutMix(alpha=CUTMIX_ALPHA, num_classes=CLASSES)]
        )

    def __call__(self, samples: list[tuple[Tensor, int]]) -> Any:  # noqa: ANN401  # what the transform returns
        return self._mix(*default_collate(samples))


def wait_for(device: torch.device) -> None:
    """Return once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def torchvisions(split: Split, kind: str, workers: int, device: torch.device) -> Callable[[], float]:
    """Return a function that runs one epoch and returns its images a second."""
    loader = DataLoader(
        Images(split, kind),
        BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=Mix(),
    )

    def run() -> float:
        began = time.perf_counter()
        for images, targets in loader:
            images.to(device, non_blocking=True)
            targets.to(device, non_blocking=True)
        wait_for(device)
        return len(loader) * BATCH_SIZE / (time.perf_counter() - began)

    return run


def menageries(split: Split, device: torch.device, epochs: int = 5) -> Callable[[], float]:
    """Return a function that runs the next `epochs` epochs and returns their images a second."""
    augment = Augment(
        flip="random",
        crop_padding=PADDING,
        policy="autoaugment",
        cutout=CUTOUT,
        mix="random",
        mixup_alpha=MIXUP_ALPHA,
        cutmix_alpha=CUTMIX_ALPHA,
    )
    batches = Batches(split, augment, BATCH_SIZE, 0, MEAN, STD, device)
    numbers = itertools.count()

    def run() -> float:
        began = time.perf_counter()
        for number in itertools.islice(numbers, epochs):
            for _ in batches.epoch(number):
                pass
        wait_for(device)
        return epochs * len(batches) * BATCH_SIZE / (time.perf_counter() - began)

    return run


def measure(split: Split, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return images a second of both, by round, and their medians."""
    ours = menageries(split, device)
    ours()
    theirs, speeds = {}, {}
    for kind, workers in itertools.product(("pil", "tensor"), (0, 2)):
        name = f"{kind} images, {workers} workers"
        theirs[name] = torchvisions(split, kind, workers, device)
        theirs[name]()
        speeds[name] = theirs[name]()
        print(f"torchvision, {name}: {speeds[name]:,.0f} images/s", file=sys.stderr)
    best = max(speeds, key=lambda name: speeds[name])
    pairs = [(ours(), theirs[best]()) for _ in range(rounds)]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "menagerie": {"images_per_s": mine, "rounds": [pair[0] for pair in pairs]},
        "torchvision": {"images_per_s": other, "rounds": [pair[1] for pair in pairs], "setting": best, "tried": speeds},
        "times_faster": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="`cpu` (default) or `cuda`")
    parser.add_argument("--images", type=int, default=10_000, help=f"images an epoch, at least {BATCH_SIZE}")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side gets; the median counts")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for stdout instead of the table")
    options = parser.parse_args()
    if options.images < BATCH_SIZE or options.rounds < 1:
        parser.error(f"at least {BATCH_SIZE} images and one round are needed")
    device = torch.device(options.device)
    everything = load_split("cifar10", "test")
    rows = np.arange(options.images) % len(everything)
    split = Split(everything.images[rows], everything.labels[rows], everything.classes)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    result = {
        "device": str(device),
        "hardware": f"{hardware}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": versions,
        "images": options.images,
        **measure(split, device, options.rounds),
    }
    if options.json:
        text = json.dumps(result, indent=2)
        if options.json == "-":
            print(text)
            return
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(f"{result['hardware']}; {result['versions']}; median of {options.rounds} rounds")
    for name in ("menagerie", "torchvision"):
        side = result[name]
        rounds = " ".join(f"{speed:,.0f}" for speed in side["rounds"])
        print(f"{name:12s} {side['images_per_s']:10,.0f} images/s   ({rounds})   {side.get('setting', '')}")
    print(f"menagerie is {result['times_faster']:.1f} times as fast")


if __name__ == "__main__":
    main()
