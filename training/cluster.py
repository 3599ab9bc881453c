"""Trials on a Ray cluster: one a GPU, tried again from its checkpoint when a worker dies."""

import importlib
import logging
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.trial import Outcome, Running, Trial, finished
from zoo.errors import MenagerieError, StorageError, UsageError
from zoo.files import atomic_write

__all__ = ["Cluster", "run_on_cluster"]

_GRACE = 150.0
"""Seconds that cancelled trials have to save: more than the workers give them."""


class _WorkerLost(Exception):  # noqa: N818  # not an error of the trial
    """A trial's process was killed by a signal, for example when memory ran out: worth another try."""


@dataclass(frozen=True)
class Cluster:
    """Where trials run, and what each gets.

    Attributes:
        address: of Ray's head node, or `auto` for the cluster that this machine belongs to.
        cpus: CPU cores of a trial that trains on them; 0 for one GPU a trial.
        retries: how often a trial is tried again after its worker died.
    """

    address: str = "auto"
    cpus: int = 0
    retries: int = 3


def run_on_cluster(
    trials: Sequence[Trial],
    program: str,
    cluster: Cluster,
    *,
    shared: Path,
    environment: dict[str, str],
    report: Callable[[Outcome], None],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Train what is not finished yet on a Ray cluster, and return how each trial ended, in the order they ended.

    Every node needs this package installed, and must see the trials' folders at the same paths: a trial whose worker
    died goes on from the checkpoint in its run's folder, wherever the next worker is.

    Args:
        trials: to be trained; all their paths are absolute.
        program: see `Running`.
        cluster: where.
        shared: a folder in which each worker looks for a file that is written here first, to see that it is shared.
        environment: variables of the trainings.
        report: called with each outcome.
        stopped: asked every second; once it says yes, the running trials are told to save and end.

    Raises:
        MenagerieError: Ray is not installed, or there is no cluster.
        UsageError: the cluster has no GPU, or not so many cores on all nodes together.
    """
    outcomes = [known for trial in trials if (known := finished(trial)) is not None]
    for outcome in outcomes:
        report(outcome)
    done = {outcome.trial.name for outcome in outcomes}
    left = [trial for trial in trials if trial.name not in done]
    if not left:
        return outcomes
    ray = _connect(cluster)
    token = shared / f".shared-{uuid.uuid4().hex}"
    try:
        shared.mkdir(parents=True, exist_ok=True)
        atomic_write(token, socket.gethostname().encode())
        task = ray.remote(_train).options(
            num_cpus=cluster.cpus or 1,
            num_gpus=0 if cluster.cpus else 1,
            max_retries=cluster.retries,
            retry_exceptions=[_WorkerLost],
        )
        waiting = {task.remote(trial, program, environment, token): trial for trial in left}
        while waiting and not stopped():
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
            for reference in ready:
                outcomes.append(_outcome(ray, reference, waiting.pop(reference)))
                report(outcomes[-1])
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_GRACE)
    finally:
        token.unlink(missing_ok=True)
        ray.shutdown()
    return outcomes


def _connect(cluster: Cluster) -> Any:  # noqa: ANN401  # the module, which need not be installed
    """Return Ray, connected."""
    try:
        ray: Any = importlib.import_module("ray")  # an optional extra
    except ImportError as error:
        raise MenagerieError("--cluster needs Ray: pip install '.[cluster]'") from error
    try:
        _knock(cluster.address)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise MenagerieError(
            f"no Ray cluster at {cluster.address!r}: start one with `ray start --head`, or give its address"
        ) from error
    kind, wanted = ("CPU", cluster.cpus) if cluster.cpus else ("GPU", 1)
    there = ray.cluster_resources().get(kind, 0)
    if there < wanted:
        ray.shutdown()
        what = f"{there:g} CPU cores, fewer than --cpus-per-trial {wanted}" if cluster.cpus else "no GPU"
        raise UsageError(f"the Ray cluster at {cluster.address!r} has {what}; --cpus-per-trial N trains on CPU cores")
    return ray


def _knock(address: str) -> None:
    """Raise `OSError` if nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _train(trial: Trial, program: str, environment: dict[str, str], token: Path) -> Outcome:
    """Train one trial, on whatever node this is."""
    if not token.exists():
        raise StorageError(
            f"{socket.gethostname()} does not see {token.parent}: put --out and ZOO_HOME where all machines see them"
        )
    outcome = Running(trial, program, environment, patience=60).wait()
    if outcome.killed:
        raise _WorkerLost(outcome.error)
    return outcome


def _outcome(ray: Any, reference: Any, trial: Trial) -> Outcome:  # noqa: ANN401  # Ray's
    """Return how a task ended, failures of the cluster included."""
    try:
        found: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = str(error.cause)
        return Outcome(trial, error=cause.splitlines()[0] if cause else "the worker failed")
    except ray.exceptions.RayError as error:
        return Outcome(trial, error=f"the worker was lost: {str(error).splitlines()[0]}", killed=True)
    return replace(found, trial=trial)
