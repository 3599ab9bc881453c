"""`zoo train --dry-run`: what a run would take, for people."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

    from training.job import Job

__all__ = ["duration", "in_units", "show_estimate"]

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86_400, 31_557_600


def in_units(value: float, unit: str) -> str:
    """Return a number with three digits and the unit's prefix: `2.18 EFLOP`."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Return a time as exactly as an estimate can be: `38 s`, `1 h 52 min`, `47 days`, `3.0 years`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        hours, minutes = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {minutes:02} min"
    return f"{seconds / _DAY:.0f} days" if seconds < 2 * _YEAR else f"{seconds / _YEAR:.1f} years"


def show_estimate(job: "Job", device: "torch.device") -> None:
    """Measure a few steps of a job and print what all of it would take."""
    from training.estimate import estimate

    recipe = job.recipe
    click.echo(f"measuring a few steps of {recipe.name} on {device}: up to a minute or two on a CPU ...", err=True)
    found = estimate(job, device)
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs:,} epochs"
    measured = "one step" if found.measured_steps == 1 else f"the median of {found.measured_steps} steps"
    memory = "peak memory, measured" if found.memory_measured else "peak memory, at least"
    for label, value in (
        ("recipe", f"{recipe.name}: {recipe.arch}, {epochs} of {len(job.part):,} images"),
        ("parameters", f"{found.parameters:,}"),
        ("steps", f"{found.steps:,} of {recipe.batch_size} images"),
        ("whole run", in_units(found.flops, "FLOP")),
        (memory, f"{found.memory / 2**30:,.2f} GiB"),
        ("one step", f"{found.step_seconds:.3g} s on {device}, from {measured}"),
        ("speed", f"{recipe.batch_size / found.step_seconds:,.3g} images/s, {in_units(found.speed, 'FLOP')}/s"),
        ("expected time", f"{duration(found.seconds)}, and validation after each epoch"),
    ):
        click.echo(f"{label:<24}{value}")
