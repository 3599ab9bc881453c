"""Requests that share batches: everybody gets their own rows, in order, soon, whatever happens to others."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime.answer import Answer
from export.serve.batcher import Batcher, Done, rows_of
from export.serve.interface import Interface
from tests.export.serve.conftest import INTERFACE, Images, answers, some_images


class Network:
    """Answers as `answers` does; batches wait while it is held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.poison: bytes | None = None

    def __call__(self, images: Images) -> tuple[Answer, Interface]:
        self.batches.append(len(images))
        assert self.go.wait(10)
        if self.poison is not None and self.poison in images.tobytes():
            raise MemoryError("poisoned")
        return Answer(*answers(images), np.arange(len(images))), INTERFACE


def batcher(network: Network, **options: Any) -> Batcher:  # noqa: ANN401
    return Batcher(network, **{"max_batch": 8, "max_delay": 0.002, **options})


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


async def held(found: Batcher, network: Network) -> "asyncio.Task[Done]":
    """Occupy the lane until `network.go` is set."""
    network.go.clear()
    task = asyncio.create_task(found.submit(some_images(1, seed=99)))
    await asyncio.sleep(0)
    assert found.running == 1
    return task


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=30), lanes=st.integers(1, 3))
def test_everybody_gets_their_own_rows(sizes: list[int], lanes: int) -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, lanes=lanes)
        requests = [some_images(size, seed) for seed, size in enumerate(sizes)]
        done = await asyncio.gather(*(found.submit(images) for images in requests))
        for images, one in zip(requests, done, strict=True):
            probs, own = answers(images)
            np.testing.assert_allclose(one.answer.probs, probs, atol=1e-6)
            assert one.answer.member_probs is not None
            np.testing.assert_allclose(one.answer.member_probs, own, atol=1e-6)
            assert one.answer.stage is not None
            assert (np.diff(one.answer.stage) == 1).all()
        assert sum(network.batches) == sum(sizes)
        assert max(network.batches) <= 8
        assert (found.waiting, found.running, found.stuck) == (0, 0, 0)
        found.close()

    run(work)


def test_what_waits_while_the_network_is_busy_shares_the_next_batch_in_order() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network)
        first = await held(found, network)
        order: list[int] = []
        tasks = []
        for number, size in enumerate([3, 3, 4, 1, 8]):
            task = asyncio.create_task(found.submit(some_images(size, number)))
            task.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
            tasks.append(task)
        await asyncio.sleep(0)
        assert (found.waiting, found.running) == (19, 1)
        assert found.stuck > 0
        network.go.set()
        done = await asyncio.gather(first, *tasks)
        assert network.batches == [1, 6, 5, 8]
        assert order == [0, 1, 2, 3, 4]
        assert [one.batch for one in done] == [1, 6, 6, 5, 5, 8]
        assert done[1].waited > 0
        found.close()

    run(work)


def test_a_lone_request_does_not_wait() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=5.0)
        began = time.monotonic()
        with found.arriving() as here:
            done = await found.submit(some_images(1), here)
        assert time.monotonic() - began < 2
        assert done.waited < 1
        found.close()

    run(work)


def test_a_batch_waits_for_those_that_are_arriving() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=5.0)
        with found.arriving() as late:
            first = asyncio.create_task(found.submit(some_images(1)))
            await asyncio.sleep(0.02)
            assert network.batches == []
            second = asyncio.create_task(found.submit(some_images(2), late))
            await asyncio.gather(first, second)
        assert network.batches == [3]
        found.close()

    run(work)


def test_a_full_batch_does_not_wait() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=5.0)
        with found.arriving():
            await asyncio.gather(found.submit(some_images(4)), found.submit(some_images(4)))
        assert network.batches == [8]
        found.close()

    run(work)


def test_nobody_waits_longer_than_the_delay_for_somebody_who_is_slow() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=0.05)
        with found.arriving():  # and never comes
            done = await found.submit(some_images(1))
        assert 0.04 < done.waited < 5
        found.close()

    run(work)


def test_nobody_waits_for_those_who_have_been_slow_already() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=1.0)
        with found.arriving():  # and sends a byte now and then
            await asyncio.sleep(1.05)
            for _ in range(3):
                assert (await found.submit(some_images(1))).waited < 0.5
            with found.arriving() as late:  # but for those who have just begun
                first = asyncio.create_task(found.submit(some_images(1)))
                await asyncio.sleep(0.02)
                await asyncio.gather(first, found.submit(some_images(2), late))
        assert network.batches == [1, 1, 1, 3]
        found.close()

    run(work)


def test_the_wait_ends_with_the_last_who_is_worth_it() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=1.0)
        with found.arriving():
            await asyncio.sleep(0.9)
            with found.arriving() as late:
                first = asyncio.create_task(found.submit(some_images(1)))
                await asyncio.sleep(0.01)
                late()  # gone, and the other has a tenth of a second left
                assert (await first).waited < 0.6
        found.close()

    run(work)


def test_a_batch_starts_when_those_that_were_arriving_fail() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network, max_delay=5.0)
        with found.arriving():
            task = asyncio.create_task(found.submit(some_images(1)))
            await asyncio.sleep(0.02)
            assert not task.done()
        assert (await task).waited < 2
        found.close()

    run(work)


def test_an_error_is_of_the_request_that_provokes_it() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network)
        first = await held(found, network)
        requests = [some_images(2, seed) for seed in range(3)]
        network.poison = requests[1].tobytes()
        tasks = [asyncio.create_task(found.submit(images)) for images in requests]
        await asyncio.sleep(0)
        network.go.set()
        done = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert isinstance(done[2], MemoryError)
        for images, one in ((requests[0], done[1]), (requests[2], done[3])):
            assert isinstance(one, Done)
            np.testing.assert_allclose(one.answer.probs, answers(images)[0], atol=1e-6)
        assert network.batches == [1, 6, 2, 2, 2]  # together, then each alone
        np.testing.assert_allclose(
            (await found.submit(requests[0])).answer.probs, answers(requests[0])[0], atol=1e-6
        )  # and life goes on
        found.close()

    run(work)


def test_who_gives_up_while_waiting_is_not_run() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network)
        first = await held(found, network)
        stays = asyncio.create_task(found.submit(some_images(1)))
        goes = asyncio.create_task(found.submit(some_images(5)))
        await asyncio.sleep(0)
        goes.cancel()
        await asyncio.gather(goes, return_exceptions=True)
        assert found.waiting == 1
        network.go.set()
        await asyncio.gather(first, stays)
        assert network.batches == [1, 1]
        found.close()

    run(work)


def test_who_gives_up_while_running_disturbs_nobody() -> None:
    network = Network()

    async def work() -> None:
        found = batcher(network)
        first = await held(found, network)
        first.cancel()
        second = asyncio.create_task(found.submit(some_images(2)))
        await asyncio.sleep(0)
        network.go.set()
        np.testing.assert_allclose((await second).answer.probs, answers(some_images(2))[0], atol=1e-6)
        found.close()

    run(work)


@pytest.mark.parametrize("size", [0, 9])
def test_batches_that_cannot_be(size: int) -> None:
    async def work() -> None:
        found = batcher(Network())
        with pytest.raises(ValueError, match=f"{size} images are not from 1 to 8"):
            await found.submit(some_images(size))
        assert found.waiting == 0
        found.close()

    run(work)


def test_lanes_run_at_once_and_batches_are_told() -> None:
    network, told = Network(), []

    async def work() -> None:
        found = batcher(network, lanes=2, max_batch=2, ran=lambda images, seconds: told.append((images, seconds)))
        network.go.clear()
        tasks = [asyncio.create_task(found.submit(some_images(2, seed))) for seed in range(3)]
        await asyncio.sleep(0.05)
        assert (found.running, found.waiting) == (4, 2)
        network.go.set()
        await asyncio.gather(*tasks)
        found.close()

    run(work)
    assert [images for images, _ in told] == [2, 2, 2]
    assert all(seconds > 0 for _, seconds in told)


def test_rows() -> None:
    images = some_images(5)
    whole = Answer(*answers(images), np.array([0, 1, 0, 2, 1]))
    part = rows_of(whole, 1, 3)
    np.testing.assert_array_equal(part.probs, whole.probs[1:3])
    assert part.stage is not None
    assert part.stage.tolist() == [1, 0]
    assert rows_of(Answer(whole.probs), 0, 1).member_probs is None
