"""`zoo train`: a recipe, a seed and data become an entry."""

from pathlib import Path

import click

from zoo.cli.progress import Progress
from zoo.data import DATASETS
from zoo.errors import UsageError

__all__ = ["command"]


@click.command("train")
@click.argument("recipe")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), required=True, help="Of weights, order and augmentation.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the data [default: ZOO_DATA].")
@click.option("--dataset", type=click.Choice(DATASETS), default="cifar10", show_default=True)
@click.option("--name", help="Name of the entry [default: RECIPE[-DATASET]-seedN].")
@click.option("--to", type=click.Path(path_type=Path), help="Source folder to file it in [default: the cache].")
@click.option("--run-dir", type=click.Path(path_type=Path), help="State and metrics [default: ZOO_HOME/runs/NAME].")
@click.option("--device", help="cpu, cuda, cuda:1 [default: cuda if there is one].")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all cores].")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    recipe: str,
    seed: int,
    data: Path | None,
    dataset: str,
    name: str | None,
    to: Path | None,
    run_dir: Path | None,
    device: str | None,
    threads: int | None,
    replace: bool,
    quiet: bool,
) -> None:
    """Train a network on 90 % of the training images and file it, with its predictions, in the zoo.

    The other 10 %, the validation split, is never trained on. Killed at any moment, the same command goes on where
    the run was.

    \b
      zoo train fastnet --seed 1 --data cifar10/
      zoo train fastnet --seed 6 --name mine --to my-zoo/
    """
    # Names and recipes are checked before anything slow.
    from training.recipe import load_recipe
    from zoo import store

    chosen = load_recipe(recipe)
    suffix = "" if dataset == "cifar10" else f"-{dataset}"
    entry_name = name or f"{recipe}{suffix}-seed{seed}"
    folder = to or store.cache_folder()
    try:
        store.check_new(entry_name, folder, replace=replace)
    except UsageError as error:
        raise UsageError(f"{error}: choose another --name or --seed, or --to DIR") from error

    import torch

    from training.job import Job
    from training.loop import train
    from training.publish import publish
    from training.run import RunFolder
    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device
    from zoo.data import MEAN_STD, load_split, load_training

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    where = pick_device(device)
    part, val = load_training(dataset, data)
    test = load_split(dataset, "test", data)
    job = Job(chosen, seed, dataset, part, val, *MEAN_STD[dataset])
    run = RunFolder(run_dir or store.home() / "runs" / entry_name, job)
    done = run.step()
    with Progress(job.steps, f"training {entry_name}", "steps", quiet=quiet, done=done) as bar:
        if done:
            bar.note(f"going on at step {done} of {job.steps} ({run.path})")

        def show(row: dict[str, float] | None) -> None:
            bar.advance(1)
            if row is not None:
                bar.note("  ".join(f"{key} {value:g}" for key, value in row.items()))

        trained = train(job, run, device=where, progress=show)
    with Progress(len(val) + len(test), "predictions", "images", quiet=quiet) as bar:
        entry = publish(job, trained, test, folder / entry_name, device=where, replace=replace, progress=bar.advance)
    click.echo(f"{entry.folder}: {100 * (entry.card.accuracy('val') or 0):.2f} % on the validation split with flip")
