"""`ensemble distill`: a student learns what a committee says, and is filed in the zoo."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import committee_options, read_committee
from zoo.cli.complete import recipe_names
from zoo.cli.progress import Progress
from zoo.cli.training_options import TrainingOptions, training_options
from zoo.cli.training_run import dry_run, train_and_file
from zoo.cli.types import PATH, TEXT
from zoo.errors import InterruptedRun, UsageError

if TYPE_CHECKING:
    import torch

    from ensemble.lockfile import Committee
    from ensemble.teacher import CommitteeTeacher
    from training.augment import Answers
    from training.distill import Teacher
    from training.distributed import World
    from training.job import Job
    from training.recipe import Recipe
    from zoo.entry import Entry

__all__ = ["command"]

_SUFFIX = "-distilled"
_ANSWERS = "answers"
_DEFAULTS = ("distill.teacher=given", "distill.temperature=2.0", "distill.hard_share=0.0", "label_smoothing=0.0")
"""What makes a recipe that knows of no teacher one that distils; see `fastnet-distilled`."""


@click.command("distill")
@click.argument("lockfile_word", metavar="[ENSEMBLE.JSON]", required=False, type=PATH)
@committee_options
@click.option(
    "--student",
    required=True,
    type=TEXT,
    metavar="RECIPE",
    shell_complete=recipe_names,
    help="What the student trains with.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=0),
    help="Crops of each image that the teacher's answers are stored for, for students of all seeds; 0 asks it anew in"
    " every step [default: as many as the epochs show, if the recipe only crops and flips].",
)
@training_options
def command(
    *,
    lockfile_word: Path | None,
    members: str | None,
    lockfile: Path | None,
    views: str | None,
    merge: str | None,
    student: str,
    crops: int | None,
    options: TrainingOptions,
) -> None:
    """Train a student on the soft answers of a committee, and file it in the zoo with its teacher named.

    The student learns from RECIPE-distilled if there is such a recipe, else from RECIPE with the teacher's answers in
    place of its labels, and is called RECIPE-distilled-seedN. The committee teaches with its own views, weights and
    temperatures. Its answers to a fixed set of crops are stored under ZOO_HOME/answers, once for all seeds. Killed at
    any moment, the same command goes on.

    \b
      ensemble distill ensemble.json --student fastnet --seed 2 --data cifar10/
      ensemble distill --members 'fastnet-seed[1-5]' --tta flip --student fastnet --seed 3 --data cifar10/
      ensemble distill ensemble.json --student wrn16-4 --seed 1 --crops 0 --set epochs=60 --data cifar10/
    """
    if lockfile_word is not None and lockfile is not None:
        raise UsageError(f"{lockfile_word} and --ensemble {lockfile} are two ensembles: give one")
    lockfile = lockfile_word or lockfile
    recipe, label, overrides = _student(student, options.overrides)
    options = dataclasses.replace(options, overrides=overrides, program="ensemble")
    committee = read_committee(members, lockfile, views, merge)
    crops = _crops(recipe, crops, committee)
    if options.seed is None and not options.dry_run:
        raise UsageError("--seed is missing: a number, which decides weights, order and augmentation")

    from ensemble.lockfile import read_provenance
    from ensemble.teacher import entries_of, teacher_record

    record = teacher_record(committee, read_provenance(lockfile, committee) if lockfile else None)

    entries = entries_of(committee)
    check = partial(_check, entries, crops)
    if options.dry_run:
        _check_dataset(entries, options.where)  # which is all that is known without data
        job, device = dry_run(recipe, options, check, label=label)
        _show_teacher(committee, crops, job, device)
        return

    def find(job: "Job", device: "torch.device", world: "World") -> "tuple[Teacher | Answers, Mapping[str, Any]]":
        teacher, precision = _teacher(committee, job.stats, device)
        if not crops:
            return teacher, {**record, "precision": precision}
        about = {key: value for key, value in record.items() if key != "fitted_on"}
        answers = _answers(teacher, crops, job, {**about, "precision": precision}, device, world, options)
        return answers, {**record, "precision": precision, "crops": crops, "answers": answers.digest}

    train_and_file(recipe, options, find, check, label=label)


def _check(entries: "Sequence[Entry]", crops: int, job: "Job") -> None:
    """Raise an error if a committee cannot teach on a job's images, or must not, or its answers cannot be kept."""
    from training.distill import check_teacher
    from zoo import store
    from zoo.files import check_writable

    for entry in entries:
        check_teacher(entry.card, job, f"member {entry.name!r}")
    if crops:
        check_writable(store.home() / _ANSWERS)


def _check_dataset(entries: "Sequence[Entry]", dataset: str) -> None:
    """Raise `UsageError` if a member classifies something else than a dataset's images."""
    for entry in entries:
        if entry.card.dataset != dataset:
            raise UsageError(f"member {entry.name!r} classifies {entry.card.dataset}, not {dataset}")


def _student(name: str, overrides: tuple[str, ...]) -> "tuple[Recipe, str, tuple[str, ...]]":
    """Return the recipe that a student trains with, what its entries are called, and all overrides of the recipe."""
    from training.recipe_file import load_recipe, recipe_names

    if not name.endswith(".toml") and name + _SUFFIX in recipe_names():
        name += _SUFFIX
    ready = load_recipe(name).distill is not None
    overrides = overrides if ready else (*_DEFAULTS, *overrides)
    recipe = load_recipe(name, overrides)
    if recipe.distill is None or recipe.distill.teacher != "given":
        raise UsageError(f"--student {name!r}: its [distill] table is not for a committee: set distill.teacher=given")
    return recipe, recipe.name if ready else recipe.name + _SUFFIX, overrides


def _crops(recipe: "Recipe", asked: int | None, committee: "Committee") -> int:
    """Return how many crops of each image the answers are to be stored for; 0 for none."""
    from ensemble.teacher import is_mirror_symmetric
    from training.augment.fixed import check_fixed, crops_there_are
    from tta.views import view_set

    if asked == 0:
        return 0
    try:
        check_fixed(recipe.augment)
    except UsageError as error:
        if asked is None:
            return 0
        raise UsageError(f"--crops {asked}: {error}: give --crops 0") from error
    there_are = crops_there_are(recipe.augment)
    if asked is not None and asked > there_are:
        raise UsageError(f"--crops {asked}: recipe {recipe.name!r} has {there_are} crops of an image")
    if asked is not None:
        return asked
    # A crop whose mirror image has the same answer is good for two epochs, if each image shows from both sides in them.
    shared = recipe.augment.flip == "alternating" and is_mirror_symmetric(view_set(committee.views))
    return min(-(-recipe.epochs // 2) if shared else recipe.epochs, there_are)


def _teacher(
    committee: "Committee", stats: "Sequence[Sequence[float]]", device: "torch.device"
) -> "tuple[CommitteeTeacher, str]":
    """Return the committee as a teacher on the device, as fast as it gets, and the precision of its networks."""
    from ensemble.frozen import freeze
    from ensemble.module import Ensemble
    from ensemble.teacher import CommitteeTeacher
    from tta.freeze import Setting

    setting = Setting.best(device)
    return CommitteeTeacher(freeze(Ensemble(committee), setting), *stats), setting.precision


def _answers(  # what is asked of whom, where
    teacher: "CommitteeTeacher",
    crops: int,
    job: "Job",
    about: Mapping[str, Any],
    device: "torch.device",
    world: "World",
    options: TrainingOptions,
) -> "Answers":
    """Return the teacher's answers, after asking what is not answered yet; processes share the crops."""
    from ensemble.teacher import is_mirror_symmetric
    from training.answer_store import AnswerStore
    from zoo import store
    from zoo.cli.interrupt import stop_requests

    kept = AnswerStore(store.home() / _ANSWERS, job, about, both_sides=not is_mirror_symmetric(teacher.net.views))
    mine = range(world.rank, crops, world.size)
    total, done = crops * len(job.part), kept.done(crops)
    quiet = options.quiet or not world.leads or done == total
    with Progress(total, "the teacher's answers", "crops", quiet=quiet, done=done) as bar, stop_requests() as stop:
        try:
            kept.fill(teacher, mine, device=device, progress=lambda n: bar.advance(n * world.size), stop=stop)
        except InterruptedRun as error:
            raise InterruptedRun(f"{error}. Go on with: {options.again}") from error
    world.lead(lambda: None)  # nobody reads before all have written
    return kept.load(crops, device)


def _show_teacher(committee: "Committee", crops: int, job: "Job", device: "torch.device") -> None:
    """Print what the teacher of a student takes."""
    from ensemble.teacher import is_mirror_symmetric
    from zoo.cli.dry_run import duration

    recipe = job.recipe
    teacher, precision = _teacher(committee, job.stats, device)
    speed = _speed(teacher, job.input_size, device)
    sides = 2 if crops and not is_mirror_symmetric(teacher.net.views) and recipe.augment.flip != "none" else 1
    asked = (crops * len(job.part) * sides) if crops else job.steps * recipe.batch_size
    when = f"once for all seeds: {crops} crops an image" if crops else "in every run: no answers are stored"
    for label, value in (
        ("teacher", f"{len(committee.members)} members, views {committee.views}, {precision}: {speed:,.3g} images/s"),
        ("teacher's time", f"{duration(asked / speed)}, {when}"),
    ):
        click.echo(f"{label:<24}{value}")


def _speed(teacher: "CommitteeTeacher", size: tuple[int, int], device: "torch.device", batch: int = 500) -> float:
    """Return the images a second that a teacher answers."""
    import time

    import torch

    images = torch.zeros(batch, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        teacher(images[:2])
        began = time.perf_counter()
        teacher(images).cpu()
    return batch / (time.perf_counter() - began)
