"""A replica: a session, and the server in front of it, as the board tells it."""

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from export.serve.app import App
from export.serve.board import Model, Order
from export.serve.endpoints import Endpoints
from export.serve.faults import Faults
from export.serve.hosts import Hosts
from export.serve.limits import Limits
from export.serve.listener import Listener, shared_socket
from export.serve.metrics import Family, Metrics
from export.serve.models import fetch_model
from export.serve.served import How, Served, load
from zoo.errors import DataError, MenagerieError

__all__ = ["Lost", "Plan", "Replica"]

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_BEAT = 1.0
"""Seconds between two reports of what was counted."""

_PATIENCE = 5.0
"""Seconds that the board is asked to wait for an order."""

_STUCK = 120.0
"""Seconds after which a batch that has not come back never will."""

_HEARD = 5.0
"""Seconds after which a replica that could not load its model asks for another in its place.

Sooner, Ray Serve would try again and again before the command has heard what is wrong.
"""

_MOST_LINES = 10_000

Link = Callable[..., Any]
"""Name of a method of the board, and its arguments -> what it returns."""


class Lost(Exception):  # noqa: N818  # what it means is for the replica to say
    """The board is gone."""


@dataclass(frozen=True)
class Plan:
    """What is the same for all replicas of a server.

    Attributes:
        name: of the model.
        host: to listen on.
        port: likewise.
        how: sessions are opened.
        limits: of requests.
        token: digest of the token, if clients need one.
        hosts: by which the server may be called besides those of loopback; None for any.
        log: whether every request is a line of the log.
        drain: seconds that requests under way get at the end.
    """

    name: str
    host: str
    port: int
    how: How
    limits: Limits
    token: bytes | None = None
    hosts: tuple[str, ...] | None = None
    log: bool = False
    drain: float = 30.0


class Replica:
    """A replica, which loads and serves in threads of its own.

    Args:
        link: to the board; it raises `Lost` once there is none.
        plan: what to do.
        orphaned: called when the board is lost and the server has closed.
    """

    def __init__(self, link: Link, plan: Plan, orphaned: Callable[[], None] = lambda: None) -> None:
        self._link, self._plan, self._orphaned = link, plan, orphaned
        self._id = uuid.uuid4().hex
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._faults = Faults()
        self._metrics = Metrics()
        self._served: Served | None = None
        self._endpoints: Endpoints | None = None
        self._listener: Listener | None = None
        self._failure = ""
        self._failed = 0.0
        self._ending = threading.Event()
        self._closed = threading.Lock()
        self._scratch = contextlib.ExitStack()
        threading.Thread(target=self._guard, args=(self._obey,), name="orders", daemon=True).start()

    def check(self) -> None:
        """Raise `RuntimeError` if this replica serves nobody, and never will."""
        if self._failure and time.monotonic() > self._failed + _HEARD:
            raise RuntimeError(self._failure)
        if self._listener is not None and not self._listener.alive and not self._ending.is_set():
            raise RuntimeError("the HTTP server has ended")
        if self._endpoints is not None and self._endpoints.batcher.stuck > _STUCK:
            raise RuntimeError("the network does not answer")

    def load(self) -> float:
        """Return how much work is at hand, in full batches."""
        if self._endpoints is None:
            return 0.0
        batcher = self._endpoints.batcher
        return (batcher.waiting + batcher.running) / self._plan.limits.max_batch

    def close(self) -> bool:
        """Stop listening, answer what is under way, and take leave; say whether all was answered in time."""
        with self._closed:
            if self._ending.is_set():
                return True
            self._ending.set()
        done = True
        if self._endpoints is not None and self._listener is not None:
            self._endpoints.draining = True
            done = self._listener.stop(self._plan.drain)
        with contextlib.suppress(Lost):
            self._link("leave", self._id, self._metrics.families(), self._take_lines())
        self._faults.close()
        self._scratch.close()
        return done

    def _guard(self, work: Callable[[], None]) -> None:
        """Work until the end; without a board, nobody wants this replica any more."""
        try:
            work()
        except Lost:
            if not self._ending.is_set():
                self.close()
                self._orphaned()
        except Exception as error:  # noqa: BLE001  # whatever it is, Ray Serve should start another replica
            _log.exception("a replica has failed")
            self._failure = f"{type(error).__name__}: {error}"

    def _obey(self) -> None:
        """Serve, and do what the board says."""
        model, past = self._link("join", self._id)
        # From now on: the board knows by it that a replica which is loading is still there.
        threading.Thread(target=self._guard, args=(self._beat,), name="beat", daemon=True).start()
        if not self._start(model):
            return
        while not self._ending.is_set() and not self._failure:
            order = self._link("next_order", self._id, past, _PATIENCE)
            if order is not None:
                past = order.number
                self._do(order)

    def _start(self, model: Model) -> bool:
        """Load the first model and listen; say whether that went well."""
        plan = self._plan
        try:
            served = Served(self._opened(model, lambda path: load(path, plan.how)))
            endpoints = Endpoints(
                served, name=plan.name, limits=plan.limits, metrics=self._metrics, others=self._others
            )
            log = self._lines.append if plan.log else None
            app = App(endpoints, token=plan.token, hosts=Hosts(plan.hosts), log=log)
            listener = Listener(app, shared_socket(plan.host, plan.port), plan.limits)
            listener.start()
        except Lost:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits to hear of it
            self._failure, self._failed = _told(error), time.monotonic()
            self._link("report", self._id, model.version, self._failure)
            return False
        self._served, self._endpoints, self._listener = served, endpoints, listener
        if self._ending.is_set():  # it was closed while it loaded, when there was nothing to stop
            listener.stop(self._plan.drain)
            return False
        self._metrics.replicas.set(1)
        self._name_model()
        self._link("push", self._id, self._metrics.families(), [])
        self._link("report", self._id, model.version, "")
        return True

    def _do(self, order: Order) -> None:
        """Load another model, serve it, or forget it."""
        served = self._served
        assert served is not None  # noqa: S101  # orders come to those who serve
        if order.verb == "load":
            error = ""
            try:
                model = self._link("model", order.version)
                self._opened(model, lambda path: served.prepare(path, self._plan.how))
            except Lost:
                raise
            except Exception as problem:  # noqa: BLE001  # the model of before is still served
                error = _told(problem)
            self._link("report", self._id, order.version, error)
        elif order.verb == "drop":
            served.drop()
        elif served.swap():
            self._name_model()

    def _opened(self, model: Model, work: Callable[[Path], _T]) -> _T:
        """Return what is made of a model; errors name the files of the board's machine."""
        here = self._here(model)
        try:
            return work(here)
        except MenagerieError as error:
            raise DataError(str(error).replace(str(here.parent), str(Path(model.path).parent))) from error

    def _here(self, model: Model) -> Path:
        """Return where a model is on this machine."""
        if Path(model.mark).exists():
            return Path(model.path)
        folder = self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="ensemble-serve-"))

        def read(name: str, offset: int) -> bytes:
            part: bytes = self._link("read", model.version, name, offset)
            return part

        fetch_model(list(model.files), read, Path(folder))
        return Path(folder) / Path(model.path).name

    def _name_model(self) -> None:
        """Say in the metrics which model this is."""
        assert self._served is not None  # noqa: S101
        session = self._served.session
        self._metrics.model.clear()
        self._metrics.model.labels(self._plan.name, session.sha256, session.precision, session.provider).set(1)

    def _beat(self) -> None:
        """Tell the board what was counted, every second, for as long as this replica is any good."""
        failed = False
        while not failed and not self._ending.wait(_BEAT):
            failed = bool(self._failure)  # once more, then: somebody should hear why
            known = self._link("push", self._id, self._metrics.families(), self._take_lines())
            if not known and not failed and not self._ending.is_set():
                raise RuntimeError("this replica was silent for so long that it was given up")

    def _take_lines(self) -> list[str]:
        return [*self._faults.take(), *(self._lines.popleft() for _ in range(len(self._lines)))]

    async def _others(self) -> Iterable[Iterable[Family]]:
        """Return what other replicas count."""
        try:
            found: list[tuple[Family, ...]] = await asyncio.to_thread(self._link, "counts", self._id)
        except Lost:
            return []
        return found


def _told(error: Exception) -> str:
    """Return an error in words, which for people are those of its own, and log one that is not meant for them."""
    if isinstance(error, MenagerieError):
        return str(error)
    _log.error("a replica has failed", exc_info=error)
    return f"a replica failed to load the model: {type(error).__name__}: {error}"
