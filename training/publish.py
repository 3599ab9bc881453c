"""From a trained network to a zoo entry: weights, predictions, card."""

import dataclasses
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.job import Job
from tta.stored import predict_split
from zoo import checkpoint
from zoo.card import Card
from zoo.data import Split
from zoo.entry import Entry, write_entry
from zoo.metrics import METRICS, encode_metrics
from zoo.predictions import Predictions
from zoo.scores import accuracies

__all__ = ["Made", "file_network", "multiply_adds", "publish"]


def multiply_adds(net: nn.Module, size: tuple[int, int]) -> int:
    """Return the multiply-adds of one forward pass over one RGB image of `size` (height, width)."""
    image = torch.zeros(1, 3, *size, device=next(net.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return int(counter.get_total_flops()) // 2


@dataclass(frozen=True)
class Made:
    """A network to file.

    Attributes:
        net: on the CPU.
        rows: the metrics of the epochs that it was trained for.
        weights: for the card, what they are if not simply those at the end of the run.
    """

    net: nn.Module
    rows: list[dict[str, float]]
    weights: str = ""


def publish(
    job: Job,
    made: Made,
    test: Split,
    target: Path,
    *,
    device: torch.device,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Entry:
    """File a trained network as an entry, with its predictions on the validation and test splits; see `file_network`.

    Args:
        job: what was trained.
        made: the trained network.
        test: the test split.
        target: the entry's folder; its name is the entry's.
        device: where to compute the predictions.
        replace: whether an existing entry may be replaced.
        progress: called after each batch with the number of images in it.
    """
    seconds, images = made.rows[-1]["seconds"], job.steps_per_epoch * job.recipe.batch_size
    card = Card(
        name=target.name,
        architecture=job.recipe.arch,
        architecture_args=dict(job.recipe.arch_args),
        dataset=job.dataset,
        classes=job.part.classes,
        mean=job.mean,
        std=job.std,
        input_size=job.input_size,
        recipe=job.recipe.name,
        seed=job.seed,
        trained_on={"images": len(job.part), "fingerprint": job.part.fingerprint, "held_out": job.val.fingerprint},
        training={
            "epochs": len(made.rows),
            "seconds": round(seconds),
            "images_per_second": round(len(made.rows) * images / max(seconds, 1e-9)),
            "device": _device_name(device),
            "versions": f"python {platform.python_version()}, torch {torch.__version__}",
            **({"weights": made.weights} if made.weights else {}),
            **({"overrides": list(job.overrides)} if job.overrides else {}),
            **_distilled(job),
        },
    )
    splits = {"val": job.val, "test": test}
    extra = {METRICS: encode_metrics(made.rows)}
    return file_network(made.net, card, splits, target, device=device, extra=extra, replace=replace, progress=progress)


def file_network(
    net: nn.Module,
    card: Card,
    splits: Mapping[str, Split],
    target: Path,
    *,
    device: torch.device,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Entry:
    """File a network as an entry, with its predictions.

    The weights are rounded to fp16 first, and the predictions are those of the rounded weights.

    Args:
        net: in evaluation mode.
        card: of the entry, but for the number of parameters and multiply-adds and the metrics, which are measured.
        splits: split name (`val`, `test`) -> the images to predict.
        target: the entry's folder; its name is the entry's.
        device: where to compute the predictions.
        extra: other files, such as the training curve: file name -> content.
        replace: whether an existing entry may be replaced.
        progress: called after each batch with the number of images in it.
    """
    weights = checkpoint.encode(net)
    rounded = checkpoint.build(card, checkpoint.decode(weights, target.name), target.name)
    card = dataclasses.replace(
        card,
        parameters=sum(p.numel() for p in rounded.parameters()),
        multiply_adds=multiply_adds(rounded, card.input_size),
    )
    rounded.to(device)
    stats = (card.mean, card.std)
    stored = {name: predict_split(rounded, split, stats, device, progress) for name, split in splits.items()}
    card = dataclasses.replace(card, metrics={name: accuracies(split) for name, split in stored.items()})
    return write_entry(target, card, weights, Predictions(stored), extra=extra, replace=replace)


def _distilled(job: Job) -> dict[str, object]:
    """Return what a card says of a given teacher, and how its answers were mixed with the labels."""
    if not job.teacher:
        return {}
    distill = job.recipe.distill
    mixed = {"distill_temperature": distill.temperature, "hard_share": distill.hard_share} if distill else {}
    return {"teacher": job.teacher if isinstance(job.teacher, str) else dict(job.teacher), **mixed}


def _device_name(device: torch.device) -> str:
    """Return what the device is called by its maker, and how much of it was used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU cores"
