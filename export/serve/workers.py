"""Threads for work that would keep an event loop from its other requests."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Workers"]

_T = TypeVar("_T")


class Workers:
    """Some threads, and those who wait for one of them.

    Args:
        threads: of them.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what some work comes to, or raise what it raises.

        If this is cancelled before there is a free thread, the work is never done, and nothing of it stays in memory;
        after that its thread is not free until it ends.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()

        def release(_done: Future[_T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended before the work did
                loop.call_soon_threadsafe(self._free.release)

        future = self._pool.submit(work)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads; what runs, ends first."""
        self._pool.shutdown()
