"""`zoo train`: a recipe, a seed and data become an entry."""

import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.complete import recipe_names
from zoo.cli.interrupt import stop_requests
from zoo.cli.progress import Progress
from zoo.cli.types import PATH, TEXT
from zoo.errors import InterruptedRun, MenagerieError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from training.distill import Teacher
    from training.distributed import World
    from training.job import Job
    from training.loop import Trained
    from training.recipe import Recipe
    from zoo.data import Split
    from zoo.entry import Entry

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", type=TEXT, shell_complete=recipe_names)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of weights, order and augmentation.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a value of the recipe.")
@click.option("--data", type=PATH, help="Folder with the data [default: ZOO_DATA].")
@click.option(
    "--dataset", type=TEXT, help="cifar10, cifar100, or a name for an image folder [default: cifar10, or the folder's]."
)
@click.option("--size", type=click.IntRange(min=8), help="Resize an image folder's images to this side, in pixels.")
@click.option("--teacher", type=TEXT, metavar="NAME", help="Entry to distil from, for a recipe with a [distill] table.")
@click.option("--name", type=TEXT, help="Name of the entry [default: RECIPE[-DATASET]-seedN].")
@click.option("--to", type=PATH, help="Source folder to file it in [default: the cache].")
@click.option("--run-dir", type=PATH, help="State and metrics [default: ZOO_HOME/runs/NAME].")
@click.option("--device", help="cpu, cuda, cuda:1 [default: cuda if there is one].")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all cores].")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events into the run's folder too.")
@click.option("--dry-run", is_flag=True, help="Say what the run would take, from a few measured steps, and stop.")
@click.option("--replace", is_flag=True, help="Replace an entry of the same name.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: a list of name, folder and val_accuracy.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    *,
    recipe: str,
    seed: int | None,
    overrides: tuple[str, ...],
    data: Path | None,
    dataset: str | None,
    size: int | None,
    teacher: str | None,
    name: str | None,
    to: Path | None,
    run_dir: Path | None,
    device: str | None,
    threads: int | None,
    tensorboard: bool,
    dry_run: bool,
    replace: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network on 90 % of the training images and file it, with its predictions, in the zoo.

    RECIPE is the name of a recipe of this package, or the path of a TOML file. The other 10 %, the validation split, is
    never trained on. Stopped by Ctrl-C or killed at any moment, the same command goes on where the run was. Under
    torchrun, all its processes train the one network. With --json, val_accuracy is a fraction, on the
    validation split with flip; the list has one entry unless the recipe keeps snapshots or samples.

    \b
      zoo train fastnet --seed 1 --data cifar10/
      zoo train wrn28-10 --seed 1 --data photos/ --size 32 --set epochs=30 --set optimizer.lr=0.05
      zoo train pyramid272 --dry-run
      torchrun --nproc-per-node 8 --no-python zoo train pyramid272 --seed 1 --data cifar10/
    """
    # Names and recipes are checked before anything slow.
    from training.recipe_file import load_recipe
    from zoo.data import dataset_name

    chosen = load_recipe(recipe, overrides)
    wanted = chosen.distill is not None and chosen.distill.teacher == "given"
    if teacher and not wanted:
        raise UsageError(f'--teacher {teacher!r}: recipe {chosen.name!r} has no [distill] table with teacher = "given"')
    dataset = dataset or dataset_name(data)
    if dry_run:
        _estimate(chosen, dataset, data, size, device, threads, as_json=as_json)
        return
    if seed is None:
        raise UsageError("--seed is missing: a number, which decides weights, order and augmentation")
    if wanted and not teacher:
        raise UsageError(f"recipe {chosen.name!r} distils: give --teacher NAME")
    from zoo import store

    entry_name = name or f"{chosen.name}{'' if dataset == 'cifar10' else f'-{dataset}'}-seed{seed}"
    target = (to or store.cache_folder()) / entry_name
    path = run_dir or store.home() / "runs" / entry_name
    # A run that goes on may have filed its snapshots and samples already: they come first, and are the same again.
    begun = (path / "state.pt").exists()
    for suffix in _suffixes(chosen):
        try:
            store.check_new(entry_name + suffix, target.parent, replace=replace or (begun and suffix != ""))
        except UsageError as error:
            raise UsageError(f"{error}: choose another --name or --seed, or --to DIR") from error

    from training.distributed import joined, local_device
    from training.prepare import check_recipe
    from zoo.files import check_writable

    where = _device(local_device(device), threads)
    check_recipe(chosen)
    check_writable(target.parent)
    job, test = _load_job(chosen, seed, dataset, data, size, overrides)
    job.check()
    taught = None
    if teacher:
        taught, told = _teacher(teacher, job, where)
        job = dataclasses.replace(job, teacher=told)
    with joined(where) as world:
        try:
            entries = _train(
                job, test, path, target, where, world, taught, tensorboard=tensorboard, replace=replace, quiet=quiet
            )
            _report(entries, as_json=as_json, leads=world.leads)
        except MenagerieError as error:
            if world.leads:
                raise
            sys.exit(error.exit_code)  # what stops one process stops all, and the leading one says why


def _estimate(
    recipe: "Recipe",
    dataset: str,
    data: Path | None,
    size: int | None,
    device: str | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """Print what a run would take."""
    if as_json:
        raise UsageError("--json says what was filed, and --dry-run files nothing: give one of them")
    from training.estimate import stand_in
    from training.prepare import check_recipe
    from zoo.cli.dry_run import show_estimate

    where = _device(device, threads)
    check_recipe(recipe)
    show_estimate(_load_job(recipe, 0, dataset, data, size, ())[0] if data else stand_in(recipe, dataset), where)


def _train(  # what the command was told
    job: "Job",
    test: "Split",
    path: Path,
    target: Path,
    device: "torch.device",
    world: "World",
    teacher: "Teacher | None",
    *,
    tensorboard: bool,
    replace: bool,
    quiet: bool,
) -> "Iterator[Entry]":
    """Train and, in the leading process, file, and yield each entry when it is."""
    from contextlib import nullcontext

    from training.draw import draw_curves, draw_schedule
    from training.events import Events
    from training.loop import train
    from training.run import RunFolder

    run: RunFolder | None = None
    events: Events | None = None

    def begin() -> int:
        nonlocal run, events
        run = RunFolder(path, job)
        done = run.step()
        events = Events(path, done // job.steps_per_epoch) if tensorboard else None
        return done

    done = world.lead(begin)
    quiet = quiet or not world.leads
    bar = Progress(job.steps, f"training {target.name}", "steps", quiet=quiet, done=done)
    with bar, stop_requests() as stop, events or nullcontext():
        if run and done:
            bar.note(f"going on at step {done} of {job.steps} ({run.path})")

        def show(row: dict[str, float] | None) -> None:
            bar.advance(1)
            if row is not None:
                bar.note("  ".join(f"{key} {value:g}" for key, value in row.items()))
                if events:
                    events.write(row)

        if run:
            draw_schedule(run, job)
        try:
            trained = train(job, run, device=device, progress=show, stop=stop, teacher=teacher, world=world)
        except InterruptedRun as error:
            again = shlex.join(["zoo", *sys.argv[1:]]) if world.size == 1 else "the same torchrun command"
            raise InterruptedRun(f"{error}. Go on with: {again}") from error
        finally:
            if run:
                draw_curves(run, run.rows(), f"{target.name}")
    if run is not None:
        yield from _publish(job, trained, test, target, device, replace=replace, quiet=quiet)


def _publish(
    job: "Job",
    trained: "Trained",
    test: "Split",
    target: Path,
    device: "torch.device",
    *,
    replace: bool,
    quiet: bool,
) -> "Iterator[Entry]":
    """File the network, and before it what else was kept: what is killed before the last of them can go on."""
    from training.publish import Made, publish

    nets = {f"-{suffix}": net for suffix, net in trained.others.items()} | {"": trained.net}
    with Progress((len(job.val) + len(test)) * len(nets), "predictions", "images", quiet=quiet) as bar:
        for suffix, net in nets.items():
            folder, over = target.with_name(target.name + suffix), replace or suffix != ""
            made = Made(net, *_about(job, trained, suffix.removeprefix("-")))
            yield publish(job, made, test, folder, device=device, replace=over, progress=bar.advance)


def _report(entries: "Iterator[Entry]", *, as_json: bool, leads: bool) -> None:
    """Say of each entry that it is filed, when it is; with --json, of all of them at the end."""
    rows = []
    for entry in entries:
        accuracy = entry.card.accuracy("val")
        rows.append({"name": entry.name, "folder": str(entry.folder), "val_accuracy": accuracy})
        if not as_json:
            click.echo(f"{entry.folder}: {100 * (accuracy or 0):.2f} % on the validation split with flip")
    if as_json and leads:
        click.echo(json.dumps(rows, indent=1))


def _about(job: "Job", trained: "Trained", suffix: str) -> "tuple[list[dict[str, float]], str]":
    """Return the epochs that a network of a run was trained for, and what its weights are, for its card."""
    average = job.recipe.average
    if suffix.startswith("snapshot"):
        number = int(suffix.removeprefix("snapshot"))
        step = job.snapshot_steps[number - 1]
        epochs = math.ceil(step / job.steps_per_epoch)
        return trained.rows[:epochs], f"snapshot {number}, of step {step:,} of {job.steps:,}"
    if suffix.startswith("sample"):
        return trained.rows, f"sample {suffix.removeprefix('sample')} of SWAG"
    return trained.rows, f"average ({average.kind})" if average else ""


def _suffixes(recipe: "Recipe") -> list[str]:
    """Return what the names of a run's entries end in, as far as the recipe alone says it."""
    snapshots = range(1, recipe.schedule.cycles) if recipe.snapshots else ()
    samples = range(1, recipe.average.samples + 1) if recipe.average else ()
    return ["", *(f"-snapshot{n}" for n in snapshots), *(f"-sample{n}" for n in samples)]


def _device(name: str | None, threads: int | None) -> "torch.device":
    import torch

    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    return pick_device(name)


def _load_job(
    recipe: "Recipe", seed: int, dataset: str, data: Path | None, size: int | None, overrides: tuple[str, ...]
) -> "tuple[Job, Split]":
    """Return the job on the real data, and the test split."""
    from training.job import Job
    from zoo.data import load_all, mean_std

    part, val, test = load_all(dataset, data, size=(size, size) if size else None)
    return Job(recipe, seed, dataset, part, val, *mean_std(dataset, part), overrides), test


def _teacher(name: str, job: "Job", device: "torch.device") -> "tuple[Teacher, str]":
    """Return an entry as a teacher, and which one it is.

    It takes the student's images, and is given them in its own mean and std.
    """
    import torch
    from torch import Tensor

    from zoo import store
    from zoo.files import SUMS, sha256_file

    entry = store.find(name)
    if entry.card.classes != job.part.classes:
        raise UsageError(f"--teacher {name!r} classifies {entry.card.dataset}, not the classes of {job.dataset}")
    if tuple(entry.card.input_size) != job.input_size:
        its, mine = ("{} x {}".format(*size) for size in (entry.card.input_size, job.input_size))
        raise UsageError(f"--teacher {name!r} takes images of {its} pixels, not of {mine}")
    if (entry.card.trained_on or {}).get("held_out") != job.val.fingerprint:
        raise UsageError(
            f"--teacher {name!r} did not hold out this validation split, or does not say so: what it knows of the split"
            " would leak into the student"
        )
    net = entry.load().to(device)
    (mean, std), (its_mean, its_std) = (
        [torch.tensor(values, device=device).view(3, 1, 1) for values in stats]
        for stats in (job.stats, (entry.card.mean, entry.card.std))
    )

    def teach(images: Tensor) -> Tensor:
        logits: Tensor = net(((images * std + mean) - its_mean) / its_std)
        return logits

    return teach, f"{name}@{sha256_file(entry.folder / SUMS)[:16]}"
