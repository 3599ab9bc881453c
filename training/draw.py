"""A run's pictures: `curves.png` and `schedule.png` in its folder."""

from training.job import Job
from training.plots import curves, schedule
from training.run import RunFolder
from training.schedules import factor

__all__ = ["draw_curves", "draw_schedule", "learning_rates"]

_POINTS = 600
"""Points of a line; more cannot be told apart."""


def learning_rates(job: Job, points: int = _POINTS) -> dict[str, list[float]]:
    """Return each parameter group's learning rate at equal distances from the first step to the last.

    Groups whose schedule waits for a plateau are left out: theirs is known only afterwards, from `metrics.csv`.
    """
    points = min(points, job.steps)
    shown = [round(i * (job.steps - 1) / max(points - 1, 1)) for i in range(points)]
    rates = {}
    seen: set[str] = set()
    for group in job.recipe.all_groups():
        if group.params not in seen and group.schedule.kind != "plateau":
            at = factor(group.schedule, job.steps, job.steps_per_epoch)
            rates[group.params] = [group.optimizer.lr * at(step) for step in shown]
        seen.add(group.params)  # of groups with the same pattern, `*` too, the first has all the parameters
    return rates


def draw_schedule(run: RunFolder, job: Job) -> None:
    """Draw the learning rates of the whole run, those to come as well."""
    rates = learning_rates(job)
    if rates:
        last = job.recipe.epochs * (job.steps - 1) / job.steps  # where the last step begins
        schedule(rates, run.path / "schedule.png", epochs=last, title=job.recipe.name)


def draw_curves(run: RunFolder, rows: list[dict[str, float]], title: str) -> None:
    """Draw the metrics of the epochs so far."""
    if rows:
        curves(rows, run.path / "curves.png", title)
