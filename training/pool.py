"""Trials on this machine: so many at a time, whatever becomes of each."""

import time
from collections.abc import Callable, Sequence

from training.trial import Outcome, Running, Trial, finished, stop

__all__ = ["run_here"]


def run_here(
    trials: Sequence[Trial],
    program: str,
    *,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    report: Callable[[Outcome], None],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Train what is not finished yet, and return how each trial ended, in the order they ended.

    Args:
        trials: in the order to start them.
        program: see `Running`.
        jobs: trials at a time, above 0.
        gpus: devices as `CUDA_VISIBLE_DEVICES` names them, dealt out among the jobs; if none, each trial chooses.
        report: called with each outcome.
        stopped: asked often; once it says yes, the running trials are told to save and end, and what there is of
            outcomes is returned.
    """
    waiting, running, outcomes = list(trials), dict[int, Running](), list[Outcome]()

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report(outcome)

    try:
        while (waiting or running) and not stopped():
            for job in range(jobs):
                while job not in running and waiting:
                    trial = waiting.pop(0)
                    if (known := finished(trial)) is not None:
                        note(known)
                        continue
                    chosen = {"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]} if gpus else None
                    running[job] = Running(trial, program, chosen)
            for job, one in list(running.items()):
                if (outcome := one.poll()) is not None:
                    del running[job]
                    note(outcome)
            time.sleep(0.05)
    finally:
        stop(list(running.values()))
    return outcomes
