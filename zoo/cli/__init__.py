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
        "push": ("zoo.cli.push", "Publish entries: in a folder, on the Hub, on S3."),
        "index": ("zoo.cli.index", "Make a folder of entries one that can be served."),
        "verify": ("zoo.cli.verify", "Check an entry's files; --predictions runs the network."),
        "import": ("zoo.cli.import_", "Make an entry of a checkpoint from elsewhere."),
        "import-predictions": ("zoo.cli.import_predictions", "Make an entry of predictions from elsewhere."),
        "convert": ("zoo.cli.convert", "File an entry in another form: number type, shards."),
        "export": ("zoo.cli.export", "One network as an ONNX graph."),
        "soup": ("zoo.cli.soup", "Average the weights of related entries."),
        "rm": ("zoo.cli.rm", "Delete an entry from the cache."),
        "train": ("zoo.cli.train", "Train a network by a recipe and file it."),
        "sweep": ("zoo.cli.sweep", "Train a recipe with many seeds or settings."),
        "compare": ("zoo.cli.compare", "Is one recipe better than another? Several seeds say."),
        "completion": ("zoo.cli.completion", "Completion on the Tab key, for bash, zsh, fish."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="menagerie")
def group() -> None:
    """Checkpoints of small-image classifiers, with their predictions. --debug shows tracebacks."""


def main() -> None:
    """Run `zoo` and exit."""
    sys.exit(run(group))
