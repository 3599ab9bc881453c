"""What `zoo train` and `ensemble distill` share: the run, and filing what it made; or what a run would take."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.interrupt import stop_requests
from zoo.cli.progress import Progress
from zoo.cli.training_options import TrainingOptions
from zoo.errors import InterruptedRun, MenagerieError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from training.augment import Answers
    from training.distill import Teacher
    from training.distributed import World
    from training.job import Job
    from training.loop import Trained
    from training.recipe import Recipe
    from zoo.data import Split
    from zoo.entry import Entry

__all__ = ["CheckTeacher", "FindTeacher", "dry_run", "train_and_file"]

CheckTeacher = Callable[["Job"], None]
"""Raises `UsageError` if the teacher cannot teach on a job's images, or must not."""

FindTeacher = Callable[["Job", "torch.device", "World"], "tuple[Teacher | Answers, str | Mapping[str, Any]]"]
"""From a job, the device and the processes to the teacher or its answers, and what the records say of it."""


def train_and_file(
    recipe: "Recipe",
    options: TrainingOptions,
    find_teacher: FindTeacher | None = None,
    check_teacher: CheckTeacher = lambda _job: None,
    *,
    label: str | None = None,
) -> None:
    """Train a recipe with a seed on data, file what it made, and say so on stdout.

    Args:
        recipe: with its overrides.
        options: what the command was told; `seed` is not None.
        find_teacher: for a recipe that distils; called when all else is known to go together.
        check_teacher: called before it.
        label: what the entry's name begins with [default: the recipe's].

    Raises:
        UsageError: something does not go together; before anything slow, if it can be known.
        InterruptedRun: stopped on request; the message says how to go on.
    """
    target, path = _check_target(recipe, options, label)

    from training.distributed import joined, local_device

    device = _pick(local_device(options.device), options.threads)
    job, test = _load_job(recipe, options)
    _check_job(job, path, check_teacher)
    with joined(device) as world:
        try:
            teacher = None
            if find_teacher is not None:
                teacher, about = find_teacher(job, device, world)
                job = dataclasses.replace(job, teacher=about)
            entries = _train(job, test, path, target, device, world, teacher, options)
            _report(entries, as_json=options.as_json, leads=world.leads)
        except MenagerieError as error:
            if world.leads:
                raise
            sys.exit(error.exit_code)  # what stops one process stops all, and the leading one says why


def dry_run(
    recipe: "Recipe",
    options: TrainingOptions,
    check_teacher: CheckTeacher = lambda _job: None,
    *,
    label: str | None = None,
) -> "tuple[Job, torch.device]":
    """Print what a run would take, after all that would be refused of it; return the job, and the device.

    Without data the job is on noise, and what depends on the images is not checked.

    Raises:
        UsageError: as `train_and_file` does.
    """
    if options.as_json:
        raise UsageError("--json says what was filed, and --dry-run files nothing: give one of them")
    _, path = _check_target(recipe, options, label)

    from training.estimate import stand_in
    from zoo.cli.dry_run import show_estimate

    device = _pick(options.device, options.threads)
    if options.data:
        job = _load_job(recipe, options)[0]
        _check_job(job, path if _is_named(options) else None, check_teacher)
    else:
        job = stand_in(recipe, options.where)
    show_estimate(job, device)
    return job, device


def _check_target(recipe: "Recipe", options: TrainingOptions, label: str | None) -> tuple[Path, Path]:
    """Return the folders of the entry and of the run; an error if it cannot be filed, or there is no such network."""
    from zoo import store
    from zoo.files import check_writable
    from zoo.names import check_name

    dataset, seed = options.where, 0 if options.seed is None else options.seed
    parts = [label or recipe.name, *([] if dataset == "cifar10" else [dataset]), f"seed{seed}"]
    name, folder = options.name or "-".join(parts), options.to or store.cache_folder()
    path = options.run_dir or store.home() / "runs" / name
    check_name(name)
    # A run that goes on may have filed its snapshots and samples already: they come first, and are the same again.
    begun = (path / "state.pt").exists()
    for suffix in _suffixes(recipe) if _is_named(options) else ():
        try:
            store.check_new(name + suffix, folder, replace=options.replace or (begun and suffix != ""))
        except UsageError as error:
            raise UsageError(f"{error}: choose another --name or --seed, or --to DIR") from error

    from training.prepare import check_recipe  # with PyTorch

    check_recipe(recipe)
    check_writable(folder)
    check_writable(path)
    return folder / name, path


def _is_named(options: TrainingOptions) -> bool:
    """Say whether it is known what the entry will be called: a dry run may leave that open."""
    return bool(options.name) or options.seed is not None


def _check_job(job: "Job", path: Path | None, check_teacher: CheckTeacher) -> None:
    """Raise an error if the run cannot be made with this data, or its folder holds another one."""
    from training.prepare import check_job
    from training.run import RunFolder

    check_job(job)
    check_teacher(job)
    if path is not None:
        RunFolder.check(path, job, but=("teacher",))


def _pick(name: str | None, threads: int | None) -> "torch.device":
    """Return the device called `name`, ready for training: the threads set, freed memory kept."""
    import torch

    from zoo.allocator import keep_freed_memory
    from zoo.cli.device import pick_device

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    return pick_device(name)


def _load_job(recipe: "Recipe", options: TrainingOptions) -> "tuple[Job, Split]":
    """Return the job on the real data, and the test split."""
    from training.job import Job
    from zoo.data import load_all, mean_std

    dataset, square = options.where, (options.size, options.size) if options.size else None
    part, val, test = load_all(dataset, options.data, size=square)
    seed = options.seed or 0
    return Job(recipe, seed, dataset, part, val, *mean_std(dataset, part), options.overrides), test


def _train(  # what the command was told
    job: "Job",
    test: "Split",
    path: Path,
    target: Path,
    device: "torch.device",
    world: "World",
    teacher: "Teacher | Answers | None",
    options: TrainingOptions,
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
        events = Events(path, done // job.steps_per_epoch) if options.tensorboard else None
        return done

    done = world.lead(begin)
    quiet = options.quiet or not world.leads
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
            again = options.again if world.size == 1 else "the same torchrun command"
            raise InterruptedRun(f"{error}. Go on with: {again}") from error
        finally:
            if run:
                draw_curves(run, run.rows(), f"{target.name}")
    if run is not None:
        yield from _publish(job, trained, test, target, device, replace=options.replace, quiet=quiet)


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
