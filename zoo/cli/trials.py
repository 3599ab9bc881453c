"""What `zoo sweep` and `zoo compare` share: options of the trainings, and running them here or on a cluster."""

import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from zoo.cli.progress import Progress
from zoo.errors import InterruptedRun, MenagerieError, UsageError

if TYPE_CHECKING:
    from training.sweep import Request
    from training.trial import Outcome, Trial

__all__ = ["PROGRAM", "TrialOptions", "check_all_done", "run_trials", "trial_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

PROGRAM = (
    "from training.trial import prepare_process; prepare_process(); from zoo.cli import main; main()"  # as `zoo` itself
)


def trial_options(command: _F) -> _F:
    """Add what `TrialOptions` holds to a command, which gets it as `options`."""
    path = click.Path(path_type=Path)

    @functools.wraps(command)
    def call(**values: Any) -> Any:  # noqa: ANN401  # the command's own
        shared = {field.name: values.pop(field.name) for field in fields(TrialOptions)}
        return command(**values, options=TrialOptions(**shared))

    whole: Callable[..., Any] = call
    for option in reversed(
        (
            click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe's value."),
            click.option("--data", type=path, help="Folder with the data [default: ZOO_DATA]."),
            click.option("--dataset", help="As for `zoo train` [default: cifar10, or what the data is]."),
            click.option("--size", type=click.IntRange(min=8), help="Resize an image folder's images, in pixels."),
            click.option("--teacher", metavar="NAME", help="Entry to distil from."),
            click.option("--device", help="cpu, cuda, cuda:1 [default: the GPUs in turn, or the CPU]."),
            click.option("--jobs", type=click.IntRange(min=1), help="Trainings at a time [default: 1, or one a GPU]."),
            click.option("--out", type=path, help="Folder of the trainings [default: in ZOO_HOME/sweeps]."),
            click.option("--cluster", metavar="ADDRESS", help="Train on a Ray cluster: its address, or auto."),
            click.option("--cpus-per-trial", type=click.IntRange(min=1), help="(cluster) CPU cores instead of a GPU."),
            click.option(
                "--retries",
                type=click.IntRange(min=0),
                default=3,
                show_default=True,
                help="(cluster) If a worker dies.",
            ),
            click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of text."),
            click.option("-q", "--quiet", is_flag=True, help="No progress."),
        )
    ):
        whole = option(whole)
    return cast("_F", whole)


@dataclass(frozen=True)
class TrialOptions:
    """The values of `trial_options`."""

    overrides: tuple[str, ...]
    data: Path | None
    dataset: str | None
    size: int | None
    teacher: str | None
    device: str | None
    jobs: int | None
    out: Path | None
    cluster: str | None
    cpus_per_trial: int | None
    retries: int
    as_json: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.cluster is None and self.cpus_per_trial is not None:
            raise UsageError("--cpus-per-trial is for --cluster; on this machine, --jobs N divides the cores")
        if self.cluster is not None and self.jobs is not None:
            raise UsageError("--jobs is for this machine; a cluster trains as many at a time as it has room for")

    @property
    def where(self) -> str:
        """The name of the dataset."""
        from zoo.data import dataset_name

        return self.dataset or dataset_name(self.data)

    def folder(self, name: str) -> Path:
        """Return the folder of the trainings, absolute."""
        from zoo import store

        return (self.out or store.home() / "sweeps" / name).absolute()

    def request(self, recipe: str, overrides: Sequence[str] = ()) -> "Request":
        """Return what all trials of a recipe share; paths in it are absolute.

        Args:
            recipe: a name or the path of a TOML file.
            overrides: `key=value`, beside those of `--set`.
        """
        from training.sweep import Request
        from zoo.data import DATASETS

        data = None if self.data is None else str(self.data.absolute())
        changes = [*_given("--size", self.size), *_given("--teacher", self.teacher)]
        if self.where not in DATASETS and data:  # a folder's name says too little about what is in it
            changes += _given("--data", data)
        options = ["--dataset", self.where, *_given("--data", data), *_given("--size", self.size)]
        options += [*_given("--teacher", self.teacher), *_given("--device", self.device)]
        if recipe.endswith(".toml"):
            recipe = str(Path(recipe).absolute())
        return Request(recipe, self.where, (*self.overrides, *overrides), tuple(options), tuple(changes))


def _given(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]


def run_trials(trials: "Sequence[Trial]", options: TrialOptions, out: Path) -> "list[Outcome]":
    """Train what is not finished, and say on stderr how each trial ended.

    Raises:
        InterruptedRun: stopped on request; the message says how to go on.
    """
    from zoo.cli.interrupt import stop_requests

    outcomes: list[Outcome] = []
    with Progress(len(trials), "trainings", "runs", quiet=options.quiet) as bar, stop_requests() as stopped:

        def report(outcome: "Outcome") -> None:
            outcomes.append(outcome)
            bar.note(_line(outcome))
            bar.advance(1)

        if options.cluster is None:
            _run_here(trials, options, report, stopped)
        else:
            _run_on_cluster(trials, options, out, report, stopped)
    if len(outcomes) < len(trials):
        done = sum(outcome.error is None for outcome in outcomes)
        again = shlex.join(["zoo", *sys.argv[1:]])
        raise InterruptedRun(f"stopped: {done} of {len(trials)} trainings are done. Go on with: {again}")
    return outcomes


def _run_here(
    trials: "Sequence[Trial]",
    options: TrialOptions,
    report: "Callable[[Outcome], None]",
    stopped: Callable[[], bool],
) -> None:
    from training.pool import run_here

    gpus = _gpus() if options.device in {None, "cuda"} else []
    jobs = options.jobs or max(len(gpus), 1)
    if jobs > 1:
        import torch

        threads = ("--threads", str(max(torch.get_num_threads() // jobs, 1)))
        trials = [replace(trial, arguments=(*trial.arguments, *threads)) for trial in trials]
    run_here(trials, PROGRAM, jobs=jobs, gpus=gpus, report=report, stopped=stopped)


def _gpus() -> list[str]:
    """Return the GPUs as `CUDA_VISIBLE_DEVICES` names them; none unless there are several to choose from."""
    import torch

    if not torch.cuda.is_available() or torch.cuda.device_count() == 1:
        return []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(i) for i in range(torch.cuda.device_count())]


def _run_on_cluster(
    trials: "Sequence[Trial]",
    options: TrialOptions,
    out: Path,
    report: "Callable[[Outcome], None]",
    stopped: Callable[[], bool],
) -> None:
    from training.cluster import Cluster, run_on_cluster
    from zoo import store

    cpus = options.cpus_per_trial or 0
    if cpus:
        words = ("--threads", str(cpus), *(() if options.device else ("--device", "cpu")))
        trials = [replace(trial, arguments=(*trial.arguments, *words)) for trial in trials]
    environment = {"ZOO_HOME": str(store.home().absolute())}
    if data := os.environ.get("ZOO_DATA"):
        environment["ZOO_DATA"] = str(Path(data).absolute())
    cluster = Cluster(options.cluster or "auto", cpus, options.retries)
    run_on_cluster(trials, PROGRAM, cluster, shared=out, environment=environment, report=report, stopped=stopped)


def _line(outcome: "Outcome") -> str:
    """Say how a trial ended."""
    trial = outcome.trial
    if outcome.error is not None:
        return f"{trial.name}: failed: {outcome.error} ({trial.log})"
    there = " (there already)" if outcome.skipped else ""
    return f"{trial.name}: {100 * outcome.accuracy['flip']:.2f} % on the validation split with flip{there}"


def check_all_done(outcomes: "Sequence[Outcome]") -> None:
    """Raise `MenagerieError` if a trial failed: the others' results are printed by then."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        first = failed[0]
        raise MenagerieError(
            f"{len(failed)} of {len(outcomes)} trainings failed, first {first.trial.name}: {first.error} "
            f"({first.trial.log}); the same command tries them again"
        )
