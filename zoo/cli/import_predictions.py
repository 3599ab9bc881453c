"""`zoo import-predictions`: what someone else's model says of a split becomes an entry without weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.group import complain
from zoo.cli.table import printable
from zoo.cli.types import PATH, TEXT
from zoo.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from zoo.data import Split

__all__ = ["command"]

_SUFFIXES = (".npz", ".safetensors")
_MOST = 1 << 30
"""Bytes that a prediction file may unpack to: a hundred times the logits of ImageNet's validation split in fp64."""


@click.command("import-predictions")
@click.argument("file", type=PATH)
@click.option("--name", type=TEXT, required=True, help="Name of the entry; one that ends in -seedN says the seed.")
@click.option("--flip", type=PATH, help="What it says of the mirrored images, likewise.")
@click.option("--dataset", type=TEXT, help="What it classifies [default: cifar10, or what is in --data].")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True, help="Of which images.")
@click.option("--data", type=PATH, help="Folder with the data [default: the package, ZOO_DATA].")
@click.option("--size", type=click.IntRange(min=8), help="With a folder of pictures: side of its images, in pixels.")
@click.option("--license", "licence", help="Of the predictions, by the Hub's identifier [default: not known].")
@click.option("--to", type=PATH, help="Source folder to file it in [default: the cache].")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@click.option("--dry-run", is_flag=True, help="Only read and check the file.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of a line.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings.")
def command(
    *,
    file: Path,
    name: str,
    flip: Path | None,
    dataset: str | None,
    split: str,
    data: Path | None,
    size: int | None,
    licence: str | None,
    to: Path | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """File someone else's predictions as an entry without weights: a member for ensembles, by name.

    FILE is .npz or .safetensors with `probs` or `logits` [N, C] and `labels` [N], rows in the split's own order
    (torchvision's for CIFAR). Its labels must be the split's. Without --flip, the entry knows the plain images only.

    \b
      zoo import-predictions theirs.npz --name theirs-seed1
      zoo import-predictions theirs.npz --flip theirs-flipped.npz --name theirs-seed1
      zoo import-predictions theirs-val.safetensors --name theirs-seed1 --split val --data cifar10/
    """
    from zoo import store
    from zoo.card import EXTERNAL, Card
    from zoo.data import MEAN_STD, dataset_name, load_split
    from zoo.errors import CorruptError
    from zoo.files import check_writable, sha256_file
    from zoo.importing.external import to_stored, write_external
    from zoo.importing.given import seed_of
    from zoo.predictions import Predictions
    from zoo.scores import accuracies, near_chance

    target = (to or store.cache_folder()) / name
    store.check_new(name, target.parent, replace=replace)
    files = {"none": file} | ({"flip": flip} if flip is not None else {})
    for path in files.values():
        _check_file(path)
    dataset = dataset or dataset_name(data)
    images = load_split(dataset, split, data, size=(size, size) if size else None)
    stored = to_stored({view: _read(path, images) for view, path in files.items()}, images)
    mean, std = MEAN_STD.get(dataset, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    card = Card(
        name=name,
        architecture=EXTERNAL,
        dataset=dataset,
        classes=images.classes,
        mean=mean,
        std=std,
        input_size=(images.images.shape[1], images.images.shape[2]),
        seed=seed_of(name),
        metrics={split: accuracies(stored)},
        training={
            "imported_from": [path.name for path in files.values()],
            "sha256": [sha256_file(path) for path in files.values()],
            "weights": "none: these are predictions only",
        },
        license=licence,
    )
    try:
        Card.from_json(card.to_json(), "the card")
    except CorruptError as error:
        raise UsageError(f"{error}: look at --license") from error
    if not dry_run:
        check_writable(target.parent)
        write_external(target, card, Predictions({split: stored}), replace=replace)
    found, place = card.metrics[split], None if dry_run else str(target)
    if as_json:
        result = {"name": name, "folder": place, "images": len(images), "metrics": card.metrics}
        click.echo(json.dumps(result, indent=1))
    elif not quiet:
        said = f"predictions for {len(images):,} {split} images, {100 * found['none']:.2f} % right"
        said += f", {100 * found['flip']:.2f} % with flip" if "flip" in found else ""
        click.echo(printable(f"{place}: {said}" if place else f"{name}: would file {said}"))
    if near_chance(found["none"], len(images.classes)):
        complain(
            f"warning: {100 * found['none']:.1f} % is near chance: are its columns the split's classes in their order?"
        )


def _check_file(path: Path) -> None:
    """Raise unless a file is there, has a name that says its format, and does not unpack to more than is sensible."""
    from zoo.importing.reading import check_archive

    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{str(path)!r} is no prediction file: its name ends in {' or '.join(_SUFFIXES)}")
    if not path.is_file():
        raise NotFoundError(f"prediction file {str(path)!r} {'is no file' if path.exists() else 'does not exist'}")
    if path.suffix == ".npz":
        check_archive(path, _MOST)


def _read(path: Path, split: "Split") -> "npt.NDArray[np.float32]":
    from ensemble.prediction_file import read_prediction_file

    return read_prediction_file(path, split)
