"""What replicas and the command tell each other: which model is served, who serves it, and what was counted.

It runs as one actor that the command owns. So when the command ends, however it ends, the board ends with it, and
replicas that cannot reach it know that they are no longer wanted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from export.serve.metrics import Family, reloads, total
from export.serve.models import copied_files, read_chunk

__all__ = ["Board", "Model", "Order"]

_SILENT = 10.0
"""Seconds after which a replica that says nothing does not count as serving."""

_LATE = 2.5
"""Seconds after which its moment is past, once another serves that may have come in its place."""

_GONE = 1000.0
"""Seconds after which it is forgotten, and replaced should it come back: longer than a model may take to load."""

_MOST_LINES = 20_000


@dataclass(frozen=True)
class Model:
    """A version of what is served.

    Attributes:
        version: from 1; each reload is the next.
        path: of the copy, on the board's machine, in a folder of its own.
        mark: a file beside it whose name nobody else has: who sees it, is on that machine.
        files: of the model, relative to `path.parent`.
    """

    version: int
    path: str
    mark: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """What replicas are to do.

    Attributes:
        number: in the order they were given, from 1.
        verb: `load` a version beside the one that is served, `swap` to it, or `drop` it.
        version: of the model.
    """

    number: int
    verb: str
    version: int


@dataclass
class _Replica:
    """What is known of a replica."""

    heard: float
    said: dict[int, str] = field(default_factory=dict)  # version -> what was wrong with it, or nothing
    families: tuple[Family, ...] = ()


class Board:
    """One for all replicas of a server; its methods are called from other processes.

    Args:
        path: of the first model's copy.
        mark: see `Model`.
        now: seconds, of a clock that never goes back.
    """

    def __init__(self, path: str, mark: str, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._mark = now, mark
        self._models = {1: self._model(1, path)}
        self._current = 1
        self._orders: list[Order] = []
        self._replicas: dict[str, _Replica] = {}
        self._retired: list[Family] = []
        self._reloads = 0
        self._faults: dict[int, list[str]] = {}  # of replicas that may have ended since
        self._since = {1: now()}  # when versions were proposed
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._changed = asyncio.Condition()

    async def join(self, replica: str) -> tuple[Model, int]:
        """Return the model that a new replica is to serve, and the last order that is of no concern to it."""
        for name in [name for name, one in self._replicas.items() if self._silence(one) > _GONE]:
            self._retire(name)
        self._replicas[replica] = _Replica(self._now())
        past = len(self._orders)
        if self._orders and self._orders[-1].verb == "load":  # everybody must have loaded it before it is served
            past -= 1
        return self._models[self._current], past

    async def next_order(self, replica: str, after: int, patience: float) -> Order | None:
        """Wait for the order after another one, and return it; None if there is none for so many seconds."""
        await self._wait(lambda: len(self._orders) > after or replica not in self._replicas, patience)
        return self._orders[after] if len(self._orders) > after else None

    async def model(self, version: int) -> Model:
        """Return a version."""
        return self._models[version]

    async def read(self, version: int, name: str, offset: int) -> bytes:
        """Return a part of a version's file; see `read_chunk`."""
        return await asyncio.to_thread(read_chunk, Path(self._models[version].path).parent, name, offset)

    async def report(self, replica: str, version: int, error: str) -> None:
        """Hear how a replica got on with a version: what was wrong, or nothing."""
        if error:
            self._faults.setdefault(version, []).append(error)
        if (known := self._replicas.get(replica)) is not None:
            known.said[version], known.heard = error, self._now()
            for one in self._replicas.values():
                if self._silence(one) > _LATE:  # if it is only slow, it says all of this again
                    one.families = _lasting(one.families)
        await self._tell()

    async def push(self, replica: str, families: tuple[Family, ...], lines: list[str]) -> bool:
        """Hear what a replica has counted so far, and its new lines of the log; say whether the replica is known.

        One that has been silent for long is not, and what it counted is in the sums already.
        """
        known = self._replicas.get(replica)
        if known is not None:
            known.families, known.heard = families, self._now()
        if lines:
            self._lines.extend(lines)
            await self._tell()
        return known is not None

    async def leave(self, replica: str, families: tuple[Family, ...], lines: list[str]) -> None:
        """Hear the last of a replica; what it counted stays in the sums."""
        if await self.push(replica, families, lines):
            self._retire(replica)
        await self._tell()

    async def counts(self, replica: str) -> list[tuple[Family, ...]]:
        """Return what all replicas but one count, and what those counted that have ended."""
        others = [one for name, one in self._replicas.items() if name != replica]
        return [
            (reloads(self._reloads),),
            tuple(self._retired),
            *(one.families if self._alive(one) else _lasting(one.families) for one in others),
        ]

    async def lines(self, patience: float) -> list[str]:
        """Wait for lines of the log, and return them; none if there is nothing for so many seconds."""
        await self._wait(lambda: bool(self._lines), patience)
        found = list(self._lines)
        self._lines.clear()
        return found

    async def propose(self, path: str) -> int:
        """Let all replicas load another model beside the one they serve, and return its version."""
        version = max(self._models) + 1
        self._models[version] = self._model(version, path)
        self._since[version] = self._now()
        await self._order("load", version)
        return version

    async def verdicts(self, version: int, wanted: int, patience: float) -> list[str] | None:
        """Return what was wrong with a version, for each replica; None if not all have said so within some seconds.

        Args:
            version: of the model.
            wanted: replicas that there are at least.
            patience: in seconds. A replica that fails is waited for by nobody, nor is one that ends without a word.
        """

        def said() -> bool:
            self._miss(version)
            answers = [one.said.get(version) for one in self._replicas.values() if self._alive(one)]
            return version in self._faults or (len(answers) >= wanted and None not in answers)

        if not await self._wait(said, patience):
            return None
        good = [one.said[version] for one in self._replicas.values() if one.said.get(version) == ""]
        return [*good, *self._faults.get(version, [])]

    async def settle(self, version: int, good: bool) -> None:  # noqa: FBT001  # called from afar, by position
        """Let all replicas serve the version they loaded, or forget it."""
        if good:
            self._current = version
            self._reloads += 1
        await self._order("swap" if good else "drop", version)

    async def serving(self) -> int:
        """Return how many replicas serve the version of now."""
        return sum(one.said.get(self._current) == "" for one in self._replicas.values() if self._alive(one))

    def _miss(self, version: int) -> None:
        """Note which replicas were there when a version was to be loaded, and are not any more."""
        for one in self._replicas.values():
            if version not in one.said and one.heard >= self._since[version] and not self._alive(one):
                one.said[version] = "a replica ended while it loaded the model: was it killed, or is memory too small?"
                self._faults.setdefault(version, []).append(one.said[version])

    def _retire(self, replica: str) -> None:
        """Forget a replica, but for what it counted."""
        self._retired = total([self._retired, _lasting(self._replicas.pop(replica).families)])

    def _model(self, version: int, path: str) -> Model:
        return Model(version, path, self._mark, tuple(copied_files(Path(path).parent)))

    async def _order(self, verb: str, version: int) -> None:
        self._orders.append(Order(len(self._orders) + 1, verb, version))
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, until: Callable[[], bool], patience: float) -> bool:
        """Wait until something holds, at most so many seconds; say whether it does."""
        try:
            async with asyncio.timeout(patience), self._changed:
                await self._changed.wait_for(until)
        except TimeoutError:
            return until()
        return True

    def _alive(self, replica: _Replica) -> bool:
        """Say whether a replica has been heard of lately; one that was killed has not."""
        return self._silence(replica) <= _SILENT

    def _silence(self, replica: _Replica) -> float:
        return self._now() - replica.heard


def _lasting(families: tuple[Family, ...]) -> tuple[Family, ...]:
    """Return what was counted, without what is only of the moment."""
    return tuple(family for family in families if family.kind != "gauge")
