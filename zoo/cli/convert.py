"""`zoo convert`: an entry with the same network in another form."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo import store
from zoo.cli.complete import entry_names
from zoo.cli.progress import Progress
from zoo.cli.types import PATH, TEXT
from zoo.convert import DTYPES
from zoo.errors import DataError, NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.convert import Converted, Dtype
    from zoo.data import Split
    from zoo.entry import Entry
    from zoo.predictions import SplitPredictions

__all__ = ["command"]

_LARGEST = 10**6


@click.command("convert")
@click.argument("name", type=TEXT, shell_complete=entry_names)
@click.option("--to-name", type=TEXT, required=True, metavar="NEW", help="Name of the new entry.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), help="Of the numbers [default: as they are].")
@click.option(
    "--shard-size",
    type=float,
    metavar="MB",
    help="Cut the weights into files below this size [default: 48 if they are cut already].",
)
@click.option("--single-file", is_flag=True, help="Put the weights into one file.")
@click.option("--to", type=PATH, help="Source folder to file it in [default: the cache].")
@click.option("--data", type=PATH, help="Folder with the data, if values change.")
@click.option("--no-predictions", is_flag=True, help="Leave the stored predictions out.")
@click.option("--device", help="cpu, cuda, cuda:1 [default: cuda if there is one].")
@click.option("--dry-run", is_flag=True, help="Only say what would come of it.")
@click.option("--replace", is_flag=True, help="Replace an entry of the new name.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, of the new entry.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    name: str,
    to_name: str,
    dtype: "Dtype | None",
    shard_size: float | None,
    single_file: bool,
    to: Path | None,
    data: Path | None,
    no_predictions: bool,
    device: str | None,
    dry_run: bool,
    replace: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """File the weights of NAME in another form, as a new entry.

    Where every value stays the same (fp16 as fp32, one file as shards), so do the stored predictions. Where values are
    rounded, the predictions are computed again, from the new weights, and the card states the accuracies they give.
    With --json, `bytes` are those of the weights, `predictions` is `none`, `kept` or `computed`, and `state` is `filed`
    or `would file`.

    \b
      zoo convert fastnet-seed1 --to-name fastnet-seed1-fp32 --dtype fp32
      zoo convert wrn28-10-seed1 --to-name wrn28-10-seed1-bf16 --dtype bf16 --data cifar10/
      zoo convert pyramid272-seed1 --to-name pyramid272-seed1 --to checkpoints/ --shard-size 48
    """
    if shard_size is not None and single_file:
        raise UsageError("--shard-size and --single-file contradict each other")
    if shard_size is not None and not 0 < shard_size < _LARGEST:
        raise UsageError(f"--shard-size {shard_size:g} is no size in MB")
    if dtype is None and shard_size is None and not single_file:
        raise UsageError("nothing to convert: give --dtype, --shard-size or --single-file")
    folder = to or store.cache_folder()
    store.check_new(to_name, folder, replace=replace)

    from zoo.convert import SHARD_SIZE, convert, convert_card
    from zoo.entry import PREDICTIONS, WEIGHTS, write_entry
    from zoo.files import check_writable
    from zoo.metrics import METRICS
    from zoo.predictions import Predictions

    entry = store.find(name)
    cut = shard_size is not None or (entry.weights != (WEIGHTS,) and not single_file)
    limit = int(1e6 * shard_size) if shard_size else SHARD_SIZE if cut else None
    made = convert(entry, dtype, limit)
    stored = {} if no_predictions or PREDICTIONS not in entry.sums else dict(entry.predictions().splits)
    fate = "none" if not stored else "kept" if made.lossless else "computed from the new weights"
    about = {
        "name": to_name,
        "folder": str(folder / to_name),
        "dtype": made.after,
        "bytes": sum(map(len, made.files.values())),
        "lossless": made.lossless,
        "predictions": fate.partition(" ")[0],
        "state": "would file" if dry_run else "filed",
    }
    said = f"{folder / to_name}: {made}; values {'as they were' if made.lossless else 'rounded'}; predictions: {fate}"
    if dry_run:
        click.echo(json.dumps(about, indent=1) if as_json else f"would file {said}")
        return
    check_writable(folder)
    metrics: dict[str, dict[str, float]] = {}
    if stored and not made.lossless:
        from zoo.scores import accuracies

        stored = _predict(entry, made, _load_splits(entry, stored, data), device, quiet=quiet)
        metrics = {split: accuracies(found) for split, found in stored.items()}
    card = convert_card(entry, to_name, lossless=made.lossless, metrics=metrics)
    extra = {METRICS: entry.read(METRICS)} if METRICS in entry.sums else {}  # how it was trained is what it was
    write_entry(
        folder / to_name, card, made.files, Predictions(stored) if stored else None, extra=extra, replace=replace
    )
    if as_json:
        click.echo(json.dumps(about, indent=1))
    elif not quiet:
        click.echo(said)


def _load_splits(entry: "Entry", stored: "Mapping[str, SplitPredictions]", data: Path | None) -> "dict[str, Split]":
    """Return the images that an entry has predictions on."""
    from zoo.data import load_split

    card, splits = entry.card, {}
    for name, found in stored.items():
        try:
            split = load_split(card.dataset, name, data, size=card.input_size, classes=card.classes)
        except NotFoundError as error:
            raise NotFoundError(
                f"the values are rounded, so the predictions have to be computed again, but {error}; "
                "or leave them out: --no-predictions"
            ) from error
        if split.fingerprint != found.fingerprint:
            raise DataError(
                f"{entry.name!r} has predictions for other {name} images (fingerprint {found.fingerprint[:8]}) "
                f"than these ({split.fingerprint[:8]}): give --data DIR, or --no-predictions"
            )
        splits[name] = split
    return splits


def _predict(
    entry: "Entry", made: "Converted", splits: "Mapping[str, Split]", device: str | None, *, quiet: bool
) -> "dict[str, SplitPredictions]":
    """Run the network with its new weights, as they will be read from their files."""
    from tta.stored import predict_split
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device

    keep_freed_memory()
    where, card = pick_device(device), entry.card
    net = made.network(card).to(where)
    with Progress(sum(map(len, splits.values())), "predictions", "images", quiet=quiet) as bar:
        return {
            name: predict_split(net, split, (card.mean, card.std), where, bar.advance) for name, split in splits.items()
        }
