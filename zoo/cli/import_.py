"""`zoo import`: someone else's checkpoint becomes an entry."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zoo.cli.group import complain
from zoo.cli.progress import Progress
from zoo.cli.table import printable
from zoo.cli.types import PATH, TEXT
from zoo.convert import DTYPES
from zoo.errors import DataError, NotFoundError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.card import Card
    from zoo.data import Split
    from zoo.importing.convert import Checkpoint
    from zoo.importing.matching import Match
    from zoo.predictions import SplitPredictions

__all__ = ["command"]


@click.command("import")
@click.argument("file", type=PATH)
@click.option("--arch", type=TEXT, required=True, help="Architecture of this zoo that it fits, e.g. resnet56.")
@click.option("--arch-arg", "arch_args", metavar="KEY=VALUE", multiple=True, help="Override one of its arguments.")
@click.option("--name", type=TEXT, required=True, help="Name of the entry; one that ends in -seedN says the seed.")
@click.option("--dataset", type=TEXT, help="What it classifies [default: cifar10, or what is in --data].")
@click.option("--data", type=PATH, help="Folder with the data [default: the package, ZOO_DATA].")
@click.option("--size", type=click.IntRange(min=8), help="With a folder of pictures: side of its images, in pixels.")
@click.option("--mean", help="Of its images in 0..1: R,G,B or one number [default: the dataset's].")
@click.option("--std", help="Likewise.")
@click.option("--key", "keys", multiple=True, help="Where in the file the tensors are, e.g. ema; several are joined.")
@click.option("--from-dataparallel", is_flag=True, help="Insist that the names begin with 'module.'.")
@click.option("--zero-channels", type=click.Choice(["end", "both"]), help="Where shortcuts pad, for resnet*-a.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), help="How to file the weights [default: as they are].")
@click.option("--license", "licence", help="Of the weights, by the Hub's identifier, e.g. mit [default: not known].")
@click.option("--no-predictions", is_flag=True, help="Do not run the network: nothing then shows that it is right.")
@click.option("--device", help="Where to run it: cpu, cuda [default: cuda if there is one].")
@click.option("--to", type=PATH, help="Source folder to file it in [default: the cache].")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@click.option("--dry-run", is_flag=True, help="Only show which tensor becomes which.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of a line.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings.")
def command(
    *,
    file: Path,
    arch: str,
    arch_args: tuple[str, ...],
    name: str,
    dataset: str | None,
    data: Path | None,
    size: int | None,
    mean: str | None,
    std: str | None,
    keys: tuple[str, ...],
    from_dataparallel: bool,
    zero_channels: str | None,
    dtype: str | None,
    licence: str | None,
    no_predictions: bool,
    device: str | None,
    to: Path | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """File someone else's checkpoint, of torch.save or safetensors, as an entry of an architecture of this zoo.

    Nothing in the file is run. Its tensors are paired with the network's by name, else by order and shape; what does
    not fit is shown. No tensor tells mean and std, the order of the classes, or ShakeDrop's probability (give
    --arch-arg shakedrop=0.5 for a PyramidNet that was trained with it), so look at the accuracy.

    \b
      zoo import resnet20.th --arch resnet20-a --zero-channels both --name theirs20-seed1
      zoo import wrn.pth.tar --arch wrn28-10 --name theirs-wrn --mean 0.4914,0.4824,0.4467 --std 0.2471,0.2435,0.2616
      zoo import net.pth --arch resnet18 --key ema --name theirs18 --dry-run
    """
    # Names and options are checked before anything slow.
    from zoo import store
    from zoo.card import Card
    from zoo.data import dataset_name, load_split
    from zoo.entry import write_entry
    from zoo.files import check_writable, sha256_file
    from zoo.importing.given import parse_arguments, parse_stats, seed_of
    from zoo.predictions import Predictions

    target = (to or store.cache_folder()) / name
    store.check_new(name, target.parent, replace=replace)
    dataset = dataset or dataset_name(data)
    arguments, stats = parse_arguments(arch_args), parse_stats(mean, std, dataset)
    where = None if dry_run or no_predictions else _device(device)

    from zoo.importing.convert import open_checkpoint
    from zoo.scores import accuracies

    _meta(arch, 2, arguments)
    checkpoint = open_checkpoint(file, keys, from_dataparallel=from_dataparallel)
    test = load_split(dataset, "test", data, size=(size, size) if size else None)
    net = _meta(arch, len(test.classes), arguments)
    match = _pair(net, checkpoint, arch)
    _check_zero_channels(net, match, zero_channels, arch)
    if dry_run:
        _show_pairs(match, checkpoint, as_json=as_json)
        return
    about = {"imported_from": file.name, "sha256": sha256_file(file), "paired_by": match.how}
    card = Card(
        name=name,
        architecture=arch,
        architecture_args=arguments,
        dataset=dataset,
        classes=test.classes,
        mean=stats[0],
        std=stats[1],
        input_size=(test.images.shape[1], test.images.shape[2]),
        seed=seed_of(name),
        training=about,
        license=licence,
    )
    _check_card(card)
    check_writable(target.parent)
    filed = _as_filed(card, net, checkpoint, match.pairs, dtype, both=zero_channels == "both")
    stored = {}
    if where is not None:
        splits = {"test": test} | _validation(card, data)
        stored = _predict(filed, splits, where, quiet=quiet or as_json)
    card = dataclasses.replace(filed.card, metrics={split: accuracies(found) for split, found in stored.items()})
    write_entry(target, card, filed.weights, Predictions(stored) if stored else None, replace=replace)
    _report(card, target, match, as_json=as_json, quiet=quiet)


class _Filed(NamedTuple):
    """What is going to be filed: a card without metrics, the bytes of the weights, and the network they make."""

    card: "Card"
    weights: bytes
    net: "nn.Module"


def _device(name: str | None) -> "torch.device":
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device

    keep_freed_memory()
    return pick_device(name)


def _meta(arch: str, classes: int, arguments: dict[str, Any]) -> "nn.Module":
    """Return a network without numbers; `UsageError` if there is no such architecture."""
    from zoo.archs import create
    from zoo.archs.unfilled import unfilled

    with unfilled():
        return create(arch, classes, **arguments)


def _pair(net: "nn.Module", checkpoint: "Checkpoint", arch: str) -> "Match":
    """Pair the tensors; where that fails, show what fits and what does not, and what would."""
    from zoo.importing.comparison import HEADER, table_rows
    from zoo.importing.convert import fitting_architectures, pair, side_by_side
    from zoo.importing.matching import MismatchError

    try:
        return pair(net, checkpoint)
    except MismatchError as error:
        _print_table(HEADER, table_rows(side_by_side(net, checkpoint)), err=True)
        fitting = fitting_architectures(checkpoint)
        if arch in fitting:
            hint = ""
        elif fitting:
            hint = f"; its layers are those of {' or '.join(fitting)}"
        else:
            hint = "; it has the layers of no architecture here, unless --arch-arg changes one"
        raise DataError(f"{checkpoint.path} does not fit {arch}: {error}{hint}") from error


def _check_zero_channels(net: "nn.Module", match: "Match", chosen: str | None, arch: str) -> None:
    """Raise `UsageError` unless `--zero-channels` is given where, and only where, it makes a difference."""
    from zoo.importing.zero_channels import has_zero_channels

    matters = has_zero_channels(net) and match.how != "name"
    if matters and chosen is None:
        raise UsageError(
            f"--zero-channels is missing: shortcuts of {arch} pad with zeros, all of them at the `end` as here, or on "
            "`both` sides as in akamaster/pytorch_resnet_cifar10; no tensor shows which, but the accuracy does"
        )
    if chosen is not None and not matters:
        why = "the tensors have this zoo's own names" if has_zero_channels(net) else f"{arch} has no such shortcuts"
        raise UsageError(f"--zero-channels {chosen}: {why}; leave it out")


def _show_pairs(match: "Match", checkpoint: "Checkpoint", *, as_json: bool) -> None:
    """Print which tensor becomes which."""
    if as_json:
        click.echo(json.dumps({"matched_by": match.how, "pairs": dict(match.pairs)}, indent=1))
        return
    shapes = {name: "x".join(map(str, shape)) for name, shape in checkpoint.shapes.items()}
    _print_table(("network", "file", "shape"), [(own, key, shapes[key]) for own, key in match.pairs.items()])
    complain(f"all {len(match.pairs)} tensors are paired by {match.how}; nothing was filed")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    from zoo.cli.table import Column, layout

    lines, _ = layout([Column(title, [row[i] for row in rows]) for i, title in enumerate(header)])
    for line in lines:
        click.echo(line, err=err)


def _check_card(card: "Card") -> None:
    """Raise `UsageError` if what the user said of a network makes no card."""
    from zoo.card import Card
    from zoo.errors import CorruptError

    try:
        Card.from_json(card.to_json(), "the card")
    except CorruptError as error:
        raise UsageError(f"{error}: look at --license and --arch-arg") from error


def _as_filed(
    card: "Card", net: "nn.Module", checkpoint: "Checkpoint", pairs: Mapping[str, str], dtype: str | None, *, both: bool
) -> _Filed:
    """Return the weights as they are filed, the network they make, and its card."""
    import torch

    from training.publish import multiply_adds
    from zoo.checkpoint import build, decode, encode
    from zoo.importing.convert import stored_type, weights_of
    from zoo.importing.zero_channels import zeros_to_the_end

    where = str(checkpoint.path)
    net = build(card, weights_of(net, checkpoint, pairs), where)
    if both:
        zeros_to_the_end(net)
    kind = getattr(torch, DTYPES[dtype]) if dtype else stored_type(checkpoint)
    weights = encode(net, kind)
    net = build(card, decode(weights, where), where)
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise UsageError(f"--dtype {dtype}: {where} has numbers beyond its range; give --dtype fp32")
    card = dataclasses.replace(
        card,
        training={**card.training, "weights": str(kind).removeprefix("torch.")},
        parameters=sum(p.numel() for p in net.parameters()),
        multiply_adds=multiply_adds(net, card.input_size),
    )
    return _Filed(card, weights, net)


def _validation(card: "Card", data: Path | None) -> "dict[str, Split]":
    """Return the validation split, if its images are at hand; nothing is downloaded."""
    from zoo.data import load_split

    folder = data or (Path(os.environ["ZOO_DATA"]) if os.environ.get("ZOO_DATA") else None)
    if folder is None:
        return {}
    try:
        return {"val": load_split(card.dataset, "val", folder, size=card.input_size, classes=card.classes)}
    except NotFoundError:
        return {}


def _predict(
    filed: _Filed, splits: "dict[str, Split]", device: "torch.device", *, quiet: bool
) -> "dict[str, SplitPredictions]":
    """Run the network over splits."""
    import numpy as np

    from tta.stored import predict_split

    stats, net = (filed.card.mean, filed.card.std), filed.net.to(device)
    stored = {}
    with (
        Progress(sum(map(len, splits.values())), "predictions", "images", quiet=quiet) as bar,
        np.errstate(over="ignore"),
    ):
        for name, split in splits.items():
            stored[name] = predict_split(net, split, stats, device, bar.advance)
            if not all(np.isfinite(logits).all() for logits in stored[name].views.values()):
                raise DataError(
                    f"the logits on the {name} split are not all finite in fp16: are --mean, --std and --arch right?"
                )
    return stored


def _report(card: "Card", target: Path, match: "Match", *, as_json: bool, quiet: bool) -> None:
    """Print what was filed, and a warning if it does not seem to be right."""
    from zoo.scores import near_chance

    plain, flipped = (card.accuracy("test", views) for views in ("none", "flip"))
    if as_json:
        result = {
            "name": card.name,
            "folder": str(target),
            "architecture": card.architecture,
            "tensors": len(match.pairs),
            "matched_by": match.how,
            "weights": card.training["weights"],
            "metrics": card.metrics,
        }
        click.echo(json.dumps(result, indent=1))
    elif not quiet:
        said = f"{target}: {len(match.pairs)} tensors, paired by {match.how}"
        if plain is not None and flipped is not None:
            said += f"; {100 * plain:.2f} % on the test split, {100 * flipped:.2f} % with flip"
        click.echo(printable(said))
    if plain is not None and near_chance(plain, len(card.classes)):
        complain(
            f"warning: {100 * plain:.1f} % is near chance: --mean and --std, the order of the classes, --arch-arg or "
            "--zero-channels may be wrong, or the network only looks like this architecture"
        )
