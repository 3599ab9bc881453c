"""The `zoo` command."""

import sys

import click

from zoo.cli.group import LazyGroup, run

__all__ = ["group", "main"]


@click.group(
    cls=LazyGroup,
    commands_in={
        "list": ("zoo.cli.list", "What there is: accuracy, size, where it lies."),
        "info": ("zoo.cli.info", "The card of an entry."),
        "pull": ("zoo.cli.pull", "Bring an entry into the cache, verified."),
        "verify": ("zoo.cli.verify", "Check an entry's files; --predictions runs the network."),
        "rm": ("zoo.cli.rm", "Delete an entry from the cache."),
        "train": ("zoo.cli.train", "Train a network by a recipe and file it."),
        "sweep": ("zoo.cli.sweep", "Train a recipe with many seeds or settings."),
        "compare": ("zoo.cli.compare", "Train two recipes with the same seeds: is the second better?"),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="menagerie")
def group() -> None:
    """Checkpoints of small-image classifiers, with their predictions. --debug shows tracebacks."""


def main() -> None:
    """Run `zoo` and exit."""
    sys.exit(run(group))
