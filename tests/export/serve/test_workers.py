"""Threads beside an event loop: waited for, left, never overrun."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from export.serve.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers(1, "work")
    yield found
    found.close()


def test_results_and_errors(workers: Workers) -> None:
    def fail() -> None:
        raise ValueError("no")

    async def work() -> None:
        assert (await workers.run(lambda: threading.current_thread().name)).startswith("work")
        with pytest.raises(ValueError, match="no"):
            await workers.run(fail)
        assert await asyncio.gather(*(workers.run(lambda i=i: i) for i in range(5))) == list(range(5))  # type: ignore[misc]

    asyncio.run(work())


def test_work_that_nobody_waits_for_is_not_begun(workers: Workers) -> None:
    begun: list[str] = []
    go, ready = threading.Event(), threading.Event()

    def long() -> None:
        begun.append("long")
        ready.set()
        go.wait(10)

    async def work() -> None:
        first = asyncio.create_task(workers.run(long))
        second = asyncio.create_task(workers.run(lambda: begun.append("second")))
        assert await asyncio.to_thread(ready.wait, 10)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        third = asyncio.create_task(workers.run(lambda: begun.append("third")))
        await asyncio.sleep(0.02)
        assert begun == ["long"]  # it has its thread still
        go.set()
        await asyncio.wait_for(third, 10)
        assert begun == ["long", "third"]

    asyncio.run(work())
