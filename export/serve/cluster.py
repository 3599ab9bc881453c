"""A server on Ray Serve, which places replicas, starts those anew that die, and adds some when there is much to do.

Requests do not pass through Ray: every replica listens on the port itself, and the kernel spreads connections over
those of a machine. Ray's own proxy would copy each request twice more, and has none of the limits of this server.
"""

import importlib
import logging
import math
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.serve.board import Board
from export.serve.replica import Link, Lost, Plan, Replica
from export.serve.served import How
from zoo.errors import MenagerieError, UsageError

__all__ = [
    "Deployment",
    "Replicas",
    "connected",
    "deploy",
    "desired_replicas",
    "import_ray",
    "link_to",
    "other_machines",
    "share",
    "start_board",
]

_BUSY = 2.0
"""Full batches at hand for each replica, from which on there should be more replicas."""

_UP, _DOWN = 5.0, 60.0
"""Seconds that there must be much or little to do before replicas come or go."""

_TOLD = 1.0
"""Seconds within which the board hears from a replica that has failed."""

_ANSWER = 60.0
"""Seconds after which the board does not answer any more, beyond those that it was asked to wait."""

_ALONE = {
    # Ray's switch for laptops: every process listens on loopback, where nobody else can reach it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # ours are our own
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",
    "MALLOC_ARENA_MAX": "2",  # of glibc, for all threads; with its usual eight a core, memory creeps up
}
"""Environment of a Ray of one's own."""

_OPEN = "this version of Ray would listen on all interfaces: install another, such as 2.60"


@dataclass(frozen=True)
class Replicas:
    """How many there are, and what each needs.

    Attributes:
        least: of them.
        most: equal to `least` where nothing is to scale.
        gpus: of each; 0 or 1.
        cpus: of each.
    """

    least: int = 1
    most: int = 1
    gpus: int = 0
    cpus: int = 1


class Deployment:
    """What Ray Serve starts: a `Replica` that it asks for its health and its load."""

    def __init__(self, board: Any, plan: Plan, app: str) -> None:  # noqa: ANN401  # Ray's handle
        link = link_to(board)
        try:
            self._safe = _stay_on_loopback()
        except MenagerieError as error:  # the command hears it in one sentence
            name = uuid.uuid4().hex
            link("report", name, link("join", name)[0].version, str(error))
            raise
        self._replica = Replica(link, plan, orphaned=lambda: _delete(app))

    def check_health(self) -> None:
        """Raise if Ray Serve should start another replica instead."""
        if not self._safe():
            raise RuntimeError(_OPEN)
        self._replica.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `desired_replicas` decides by."""
        return {"batches": self._replica.load()}

    def __del__(self) -> None:
        # Ray Serve calls this when it wants a replica to end, and waits.
        if hasattr(self, "_replica"):
            self._replica.close()


def desired_replicas(context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401  # Ray Serve's `AutoscalingContext`
    """Return how many replicas there should be, and no state: as many as the work at hand keeps busy.

    Args:
        context: whose `aggregated_metrics["batches"]` has each replica's `Replica.load`.
    """
    batches = sum((context.aggregated_metrics or {}).get("batches", {}).values())
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return min(max(math.ceil(batches / _BUSY), low), high), {}


def import_ray(address: str | None = None) -> Any:  # noqa: ANN401  # the module, which need not be installed
    """Return Ray, which is asked to be quiet; `MenagerieError` if it is not installed.

    Args:
        address: of the cluster that will be used, if it is not one of one's own: Ray looks when it is imported.
    """
    if address is None:
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    try:
        for needed in ("prometheus_client", "httptools", "uvicorn", "ray", "ray.serve"):
            importlib.import_module(needed)
    except ImportError as error:
        raise MenagerieError(f"`ensemble serve` needs {error.name}: pip install 'menagerie[cluster]'") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return importlib.import_module("ray")


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """Yield Ray, connected: to a cluster, or to processes of its own that end with this one.

    What Ray wrote of a session of its own goes with it, unless there is an error: then its logs may say why.

    Args:
        address: of a cluster that this machine belongs to, or `auto`; None for a Ray of one's own on this machine.
        cpus: that a Ray of one's own has to give away; a share of a processor cannot be reserved, only counted.

    Raises:
        MenagerieError: Ray is not installed, does not start, or there is no cluster.
    """
    ray = import_ray(address)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "menagerie"}
    try:
        if address is None:
            session = ray.init("local", include_dashboard=False, num_cpus=cpus, **quiet).address_info["session_dir"]
        else:
            found = _found(address)
            _knock(found)
            session = None
            ray.init(found, **quiet)
    except Exception as error:  # of no class of its own if Ray takes too long
        if address is None:
            reason = str(error).partition("\n")[0]
            raise MenagerieError(f"Ray does not start: {reason} (its logs are below /tmp/ray)") from error
        raise MenagerieError(
            f"no Ray cluster at {address!r}: start one with `ray start --head`, or leave --address out"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
    if session is not None:
        _forget(Path(session))


def _forget(session: Path) -> None:
    """Remove what a Ray that has ended wrote, and the link to it: Ray does not replace one that leads nowhere."""
    latest = session.with_name("session_latest")
    if latest.is_symlink() and latest.resolve() == session.resolve():
        latest.unlink(missing_ok=True)
    shutil.rmtree(session, ignore_errors=True)


def other_machines(ray: Any) -> list[str]:  # noqa: ANN401  # the module
    """Return the addresses of a cluster's machines but this one."""
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    own = {node["NodeManagerAddress"] for node in alive if node["NodeID"] == here}
    return sorted({node["NodeManagerAddress"] for node in alive} - own)


def _found(address: str) -> str:
    """Return the address of a cluster as HOST:PORT: `auto` as Ray understands it, others as they are."""
    if address != "auto":
        return address
    services = importlib.import_module("ray._private.services")
    resolve = getattr(services, "canonicalize_bootstrap_address", None)  # without it, Ray takes its time
    return address if resolve is None else str(resolve(address))


def _knock(address: str) -> None:
    """Raise `OSError` if nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def share(ray: Any, how: How, least: int, most: int) -> tuple[Replicas, How]:  # noqa: ANN401  # the module
    """Return what each replica gets of what Ray has, and how it opens its session.

    Args:
        ray: connected.
        how: sessions are to be opened; what it leaves open is filled in: the device is `cuda` if Ray has GPUs, and
            CPUs are divided among replicas.
        least: number of replicas.
        most: likewise.

    Raises:
        UsageError: there is no place for the least number: Ray would wait for more machines.
    """
    there = ray.cluster_resources()
    device = how.device or ("cuda" if there.get("GPU") else "cpu")
    gpus = int(device != "cpu" and not (how.allow_cpu and not there.get("GPU")))
    threads = how.threads or max(int(there.get("CPU", 1)) // most, 1)
    cpus = 1 if gpus else threads
    for kind, each in (("GPU", gpus), ("CPU", cpus)):
        if each * least > there.get(kind, 0):
            raise UsageError(
                f"--replicas {least} need {each * least} {kind}s, and Ray has {there.get(kind, 0):g}: give fewer"
                + (", or --device cpu" if kind == "GPU" else ", or fewer --threads")
            )
    return Replicas(least, most, gpus, cpus), replace(how, device=device, threads=threads)


def start_board(ray: Any, path: str, mark: str) -> Any:  # noqa: ANN401  # Ray's handle
    """Return a handle of a new board on this machine, which ends with this process; see `Board`."""
    affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    here = affinity(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote(path, mark)


def link_to(board: Any) -> Link:  # noqa: ANN401  # Ray's handle
    """Return what calls a board's methods and waits for what they return."""
    ray = importlib.import_module("ray")

    def call(method: str, *arguments: object) -> object:
        try:
            found: object = ray.get(getattr(board, method).remote(*arguments), timeout=_ANSWER)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.RaySystemError) as error:
            raise Lost from error
        except Exception as error:
            if ray.is_initialized():
                raise
            raise Lost from error  # Ray was shut down meanwhile
        return found

    return call


def deploy(board: Any, plan: Plan, replicas: Replicas) -> Callable[[], None]:  # noqa: ANN401  # Ray's handle
    """Start replicas, and return what ends them.

    They load what the board has after this returns, and tell it what is wrong. To end them takes as long as requests
    under way do.

    Raises:
        MenagerieError: Ray Serve does not start them, and they did not say why.
    """
    serve = importlib.import_module("ray.serve")
    config = importlib.import_module("ray.serve.config")
    app = f"ensemble-{plan.name}-{os.getpid()}"
    options: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        options = {
            "autoscaling_config": config.AutoscalingConfig(
                min_replicas=replicas.least,
                max_replicas=replicas.most,
                upscale_delay_s=_UP,
                downscale_delay_s=_DOWN,
                look_back_period_s=_UP,
                metrics_interval_s=1.0,
                policy=config.AutoscalingPolicy(policy_function=desired_replicas),
            )
        }
    deployment = serve.deployment(Deployment).options(
        name="replica",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        health_check_period_s=5.0,
        graceful_shutdown_timeout_s=plan.drain + 10,
        graceful_shutdown_wait_loop_s=0.1,
        **options,
    )
    serve.start(proxy_location="Disabled")
    try:
        serve.run(deployment.bind(board, plan, app), name=app, route_prefix=None)
    except RuntimeError as error:
        # A replica that fails at once has also told the board, and in one sentence.
        told = link_to(board)("verdicts", 1, replicas.least, _TOLD)
        if not any(told or []):
            _delete(app)
            reason = str(error).strip().partition("\n")[0]
            raise MenagerieError(
                f"Ray Serve does not start the replicas: {reason} (its logs are below /tmp/ray)"
            ) from error
    return lambda: _delete(app)


def _delete(app: str) -> None:
    """End an application, and wait until its replicas have."""
    importlib.import_module("ray.serve").delete(app)


def _stay_on_loopback() -> Callable[[], bool]:
    """Keep a replica's server for other deployments, which it has none of, from listening on all interfaces.

    Ray Serve binds it to every address whatever Ray's own is, and what arrives there is unpickled.

    Returns:
        What says, once the replica has begun, whether it listens where it should.

    Raises:
        MenagerieError: this Ray cannot be kept from it.
    """
    ray = importlib.import_module("ray")
    if ray.util.get_node_ip_address() != "127.0.0.1":
        return lambda: True
    module = importlib.import_module("ray.serve._private.replica")
    bind = getattr(module, "add_port_to_grpc_server", None)
    if bind is None:
        raise MenagerieError(_OPEN)
    bound: list[int] = []

    def bind_here(server: object, _address: str) -> int:
        bound.append(bind(server, "127.0.0.1:0"))
        return bound[-1]

    vars(module)["add_port_to_grpc_server"] = bind_here
    return lambda: bool(bound)
