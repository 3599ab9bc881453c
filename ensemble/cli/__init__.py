"""The `ensemble` command."""

import sys

import click

from zoo.cli.group import LazyGroup, run

__all__ = ["group", "main"]


@click.group(
    cls=LazyGroup,
    commands_in={
        "eval": ("ensemble.cli.eval", "Accuracy and calibration of an ensemble on a split."),
        "select": ("ensemble.cli.select", "Choose members, views, weights and temperatures."),
        "cascade": ("ensemble.cli.cascade", "Early exits: the same answers, less computed."),
        "compare": ("ensemble.cli.compare", "Is one ensemble better than another?"),
        "distill": ("ensemble.cli.distill", "Train a student on an ensemble's answers."),
        "export": ("ensemble.cli.export", "One ONNX graph, held to what PyTorch answers."),
        "bench": ("ensemble.cli.bench", "How fast an exported graph is, beside PyTorch."),
        "doctor": ("ensemble.cli.doctor", "Can this machine run graphs, and what is wrong?"),
        "serve": ("ensemble.cli.serve", "An exported graph behind HTTP: tritonclient, curl, and a page."),
        "report": ("ensemble.cli.report", "One page: accuracy against latency, and the mistakes."),
        "predict": ("ensemble.cli.predict", "Classify picture files."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="menagerie")
def group() -> None:
    """Weighted ensembles of zoo entries. --debug shows tracebacks."""


def main() -> None:
    """Run `ensemble` and exit."""
    sys.exit(run(group))
