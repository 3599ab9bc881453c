"""The options of a training, the same for `zoo train` and `ensemble distill`."""

import functools
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from zoo.cli.types import PATH, TEXT

__all__ = ["TrainingOptions", "training_options"]

_F = TypeVar("_F", bound=Callable[..., Any])


def training_options(command: _F) -> _F:
    """Add what `TrainingOptions` holds to a command, which gets it as `options`."""

    @functools.wraps(command)
    def call(**values: Any) -> Any:  # noqa: ANN401  # the command's own
        shared = {field.name: values.pop(field.name) for field in fields(TrainingOptions) if field.name in values}
        return command(**values, options=TrainingOptions(**shared))

    whole: Callable[..., Any] = call
    for option in reversed(
        (
            click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of weights, order and augmentation."),
            click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe's value."),
            click.option("--data", type=PATH, help="Folder with the data [default: ZOO_DATA]."),
            click.option(
                "--dataset",
                type=TEXT,
                help="cifar10, cifar100, or a name for an image folder [default: cifar10, or the folder's].",
            ),
            click.option(
                "--size", type=click.IntRange(min=8), help="Resize an image folder's images to this side, in pixels."
            ),
            click.option("--name", type=TEXT, help="Name of the entry [default: RECIPE[-DATASET]-seedN]."),
            click.option("--to", type=PATH, help="Source folder to file it in [default: the cache]."),
            click.option("--run-dir", type=PATH, help="State and metrics [default: ZOO_HOME/runs/NAME]."),
            click.option("--device", help="cpu, cuda, cuda:1 [default: cuda if there is one]."),
            click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all cores]."),
            click.option("--tensorboard", is_flag=True, help="Write TensorBoard events into the run's folder too."),
            click.option(
                "--dry-run", is_flag=True, help="Say what the run would take, from a few measured steps, and stop."
            ),
            click.option("--replace", is_flag=True, help="Replace an entry of the same name."),
            click.option(
                "--json", "as_json", is_flag=True, help="JSON on stdout: a list of name, folder and val_accuracy."
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress."),
        )
    ):
        whole = option(whole)
    return cast("_F", whole)


@dataclass(frozen=True)
class TrainingOptions:
    """The values of `training_options`; `program` is the command that goes on with an interrupted run."""

    seed: int | None
    overrides: tuple[str, ...]
    data: Path | None
    dataset: str | None
    size: int | None
    name: str | None
    to: Path | None
    run_dir: Path | None
    device: str | None
    threads: int | None
    tensorboard: bool
    dry_run: bool
    replace: bool
    as_json: bool
    quiet: bool
    program: str = "zoo"

    @property
    def where(self) -> str:
        """The name of the dataset."""
        from zoo.data import dataset_name

        return self.dataset or dataset_name(self.data)

    @property
    def again(self) -> str:
        """The command line that goes on with this run."""
        return shlex.join([self.program, *sys.argv[1:]])
