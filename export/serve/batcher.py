"""Requests that wait for the network together: whatever is there runs at once, and nobody waits for nobody.

A batch starts as soon as a lane is free. It waits for more, at most `max_delay`, only while other requests are known to
be on their way: so a lone client never pays the delay, and clients that send at the same moment share a batch. A
request is expected for no longer than `max_delay`, so whoever sends slowly holds others up once, and no longer either.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.runtime.answer import Answer
from export.serve.interface import Interface

__all__ = ["Batcher", "Done", "rows_of"]

Run = Callable[[npt.NDArray[np.uint8]], tuple[Answer, Interface]]


@dataclass(frozen=True, eq=False)
class Done:
    """What became of a request.

    Attributes:
        answer: to its own images.
        interface: of the session that gave it, which may have been replaced since.
        waited: seconds before it ran.
        ran: seconds that its batch took.
        batch: images in the batch.
    """

    answer: Answer
    interface: Interface
    waited: float
    ran: float
    batch: int


@dataclass(eq=False)
class _Waiting:
    """A request in the queue."""

    images: npt.NDArray[np.uint8]
    future: "asyncio.Future[Done]"
    since: float
    started: bool = False


class Batcher:
    """A queue in front of a network, on one event loop.

    Args:
        run: uint8 `[N, H, W, 3]` -> what the network says, and its interface; called in as many threads as there are
            lanes.
        max_batch: images in a batch; no request may have more.
        max_delay: seconds that a batch waits while requests are arriving.
        lanes: batches that run at once.
        ran: called with the images of each batch and the seconds it took.

    Attributes:
        waiting: images in the queue.
        running: images being answered.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_delay: float,
        lanes: int = 1,
        ran: Callable[[int, float], None] = lambda _images, _seconds: None,
    ) -> None:
        self._run, self._max_batch, self._max_delay, self._lanes, self._ran = run, max_batch, max_delay, lanes, ran
        self._pool = ThreadPoolExecutor(lanes, "batch")
        self._queue: deque[_Waiting] = deque()
        self._busy = 0
        self._arriving: dict[object, float] = {}  # since when, oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._batches: dict[asyncio.Task[None], float] = {}  # since when they have been running
        self.waiting = 0
        self.running = 0

    @contextmanager
    def arriving(self) -> Iterator[Callable[[], None]]:
        """Say that a request is on its way; what is yielded says that it is here, or will not come."""
        one = object()
        self._arriving[one] = time.monotonic()

        def here() -> None:
            if self._arriving.pop(one, None) is not None:
                self._look()

        try:
            yield here
        finally:
            here()

    async def submit(self, images: npt.NDArray[np.uint8], here: Callable[[], None] = lambda: None) -> Done:
        """Return what the network says of a request's images.

        If this is cancelled while the request waits, it leaves the queue.

        Args:
            images: uint8 `[N, H, W, 3]`, N from 1 to `max_batch`.
            here: what `arriving` yielded, to be called once the request is in the queue.

        Raises:
            ValueError: there are no images, or more than a batch has.
            Exception: what `run` raised for these images.
        """
        if not 1 <= len(images) <= self._max_batch:
            raise ValueError(f"{len(images)} images are not from 1 to {self._max_batch}")
        one = _Waiting(images, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(one)
        self.waiting += len(images)
        here()
        self._look()
        try:
            return await one.future
        finally:
            if not one.started:
                self._queue.remove(one)
                self.waiting -= len(images)

    @property
    def stuck(self) -> float:
        """For how many seconds the batch has been running that has been running longest; 0 without one."""
        began = list(self._batches.values())  # health checks come from other threads
        return time.monotonic() - min(began) if began else 0.0

    def close(self) -> None:
        """End the threads; what runs, ends first."""
        self._pool.shutdown()

    def _look(self) -> None:
        """Start batches, or see to it that somebody looks again in time."""
        while self._queue and self._busy < self._lanes:
            if self._arriving and self.waiting < self._max_batch:
                last = next(reversed(self._arriving.values()))
                left = min(last, self._queue[0].since) + self._max_delay - time.monotonic()
                if left > 0:
                    self._stop_timer()
                    self._timer = asyncio.get_running_loop().call_later(left, self._look)
                    return
            self._start()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        """Take the oldest requests that fit into a batch, in their order, and run them."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and size + len(self._queue[0].images) <= self._max_batch:
            one = self._queue.popleft()
            one.started = True
            size += len(one.images)
            batch.append(one)
        self.waiting -= size
        self.running += size
        self._busy += 1
        task = asyncio.get_running_loop().create_task(self._finish(batch, size))
        self._batches[task] = time.monotonic()
        task.add_done_callback(self._batches.pop)

    async def _finish(self, batch: list[_Waiting], size: int) -> None:
        """Run a batch in a thread, and give each request its own rows."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        try:
            found = await loop.run_in_executor(self._pool, _answer_all, self._run, [one.images for one in batch])
        finally:
            self._busy -= 1
            self.running -= size
        seconds = time.monotonic() - began
        self._ran(size, seconds)
        self._look()
        for one, what in zip(batch, found, strict=True):
            if one.future.done():  # its client has gone
                continue
            if isinstance(what, Exception):
                one.future.set_exception(what)
            else:
                one.future.set_result(Done(*what, began - one.since, seconds, size))


def _answer_all(run: Run, requests: list[npt.NDArray[np.uint8]]) -> list[tuple[Answer, Interface] | Exception]:
    """Return what becomes of each request; if the batch fails, each runs alone, and cannot take others along."""
    try:
        whole, interface = run(requests[0] if len(requests) == 1 else np.concatenate(requests))
    except Exception as error:  # noqa: BLE001  # it is the request's to report
        return [error] if len(requests) == 1 else [_answer_all(run, [images])[0] for images in requests]
    ends = np.cumsum([len(images) for images in requests]).tolist()
    return [(rows_of(whole, end - len(images), end), interface) for images, end in zip(requests, ends, strict=True)]


def rows_of(answer: Answer, start: int, end: int) -> Answer:
    """Return what was said of the images from `start` to before `end`."""
    members, stage = answer.member_probs, answer.stage
    return Answer(
        answer.probs[start:end],
        None if members is None else members[start:end],
        None if stage is None else stage[start:end],
    )
