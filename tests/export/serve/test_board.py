"""What replicas and the command tell each other, without Ray."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from export.serve.board import Board, Order
from export.serve.metrics import Family

FILES = ("m.onnx", "m.onnx.data")


@pytest.fixture
def path(tmp_path: Path) -> str:
    for name in FILES:
        (tmp_path / name).write_text(name)
    return str(tmp_path / "m.onnx")


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work()

    asyncio.run(bounded())


def counts(number: float, kind: str = "counter") -> tuple[Family, ...]:
    return (Family("x", "X.", kind, (("x_total", (), number),)),)


def total(found: list[tuple[Family, ...]]) -> float:
    return sum(value for families in found for family in families for _, _, value in family.samples)


def test_a_replica_that_joins_gets_the_model(path: str) -> None:
    async def work() -> None:
        model, past = await Board(path, "mark").join("r")
        assert (model.version, model.path, model.mark, model.files, past) == (1, path, "mark", FILES, 0)

    run(work)


def test_files_for_other_machines(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        assert await board.read(1, "m.onnx.data", 0) == b"m.onnx.data"
        assert await board.read(1, "m.onnx.data", 7) == b"data"
        assert await board.read(1, "m.onnx.data", 11) == b""

    run(work)


def test_orders_reach_those_who_wait(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("r")
        waiting = asyncio.create_task(board.next_order("r", 0, 5))
        await asyncio.sleep(0.01)
        assert await board.propose(path) == 2
        assert await waiting == Order(1, "load", 2)
        assert await board.next_order("r", 1, 0.01) is None
        await board.settle(2, True)
        assert await board.next_order("r", 1, 5) == Order(2, "swap", 2)
        assert (await board.model(2)).version == 2

    run(work)


def test_a_version_is_good_once_all_have_loaded_it(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        for name in "ab":
            await board.join(name)
            await board.report(name, 1, "")
        assert await board.verdicts(1, 2, 0.01) == ["", ""]
        assert await board.verdicts(1, 3, 0.01) is None  # a third has yet to come
        version = await board.propose(path)
        await board.report("a", version, "")
        assert await board.verdicts(version, 2, 0.01) is None
        waiting = asyncio.create_task(board.verdicts(version, 2, 5))
        await asyncio.sleep(0.01)
        await board.report("b", version, "")
        assert await waiting == ["", ""]
        assert await board.serving() == 2  # of the one before, which is still served
        await board.settle(version, True)
        assert await board.serving() == 2

    run(work)


def test_one_replica_that_fails_is_enough(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        for name in "ab":
            await board.join(name)
        await board.report("b", 1, "no such device")
        assert await board.verdicts(1, 2, 5) == ["no such device"]
        assert await board.serving() == 0

    run(work)


def test_a_replica_that_ends_without_a_word_while_it_loads(path: str) -> None:
    async def work() -> None:
        now = 0.0
        board = Board(path, "mark", lambda: now)
        await board.join("a")
        for _ in range(0, 900, 5):
            now += 5
            await board.push("a", (), [])  # it takes its time, and says that it is there
            assert await board.verdicts(1, 1, 0.001) is None
        now += 11
        (error,) = await board.verdicts(1, 1, 0.01) or []
        assert error.startswith("a replica ended while it loaded the model: was it killed")
        await board.join("b")  # in its place
        await board.report("b", 1, "")
        assert await board.serving() == 1
        now += 100
        await board.push("b", (), [])
        version = await board.propose(path)
        assert await board.verdicts(version, 1, 0.01) is None  # who was gone before is nobody's concern
        await board.report("b", version, "")
        assert await board.verdicts(version, 1, 0.01) == [""]
        await board.settle(version, True)
        version = await board.propose(path)
        now += 11
        assert await board.verdicts(version, 1, 0.01) == [error]  # b loads a version that kills it

    run(work)


def test_what_a_replica_said_outlives_it(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("a")
        await board.report("a", 1, "no such device")
        await board.leave("a", (), [])
        assert await board.verdicts(1, 1, 0.01) == ["no such device"]

    run(work)


def test_a_version_that_was_refused_is_forgotten(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("a")
        await board.report("a", 1, "")
        version = await board.propose(path)
        await board.report("a", version, "other classes")
        await board.settle(version, False)
        assert await board.next_order("a", 1, 5) == Order(2, "drop", version)
        model, past = await board.join("b")
        assert (model.version, past) == (1, 2)
        assert await board.serving() == 1
        assert await board.propose(path) == 3

    run(work)


def test_a_replica_that_joins_during_a_reload_loads_both(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("a")
        version = await board.propose(path)
        model, past = await board.join("b")
        assert (model.version, past) == (1, 0)
        assert await board.next_order("b", past, 5) == Order(1, "load", version)
        await board.settle(version, True)
        model, past = await board.join("c")
        assert (model.version, past) == (2, 2)

    run(work)


def test_counts_of_others_and_of_those_that_have_ended(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        for number, name in enumerate("abc", 1):
            await board.join(name)
            await board.push(name, counts(10**number), [])
        assert total(await board.counts("a")) == 1100
        await board.leave("c", counts(2000), [])
        assert total(await board.counts("a")) == 2100
        await board.push("b", counts(300), [])
        assert total(await board.counts("a")) == 2300

    run(work)


def test_gauges_end_with_their_replica(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("a")
        await board.leave("a", counts(5, "gauge") + counts(7), [])
        assert total(await board.counts("b")) == 7

    run(work)


def test_gauges_end_with_a_replica_that_was_killed(path: str) -> None:
    async def work() -> None:
        now = 0.0
        board = Board(path, "mark", lambda: now)
        await board.join("a")
        await board.push("a", counts(5, "gauge") + counts(7), [])
        assert total(await board.counts("b")) == 12
        now = 60.0
        assert total(await board.counts("b")) == 7

    run(work)


def test_replicas_that_were_killed_do_not_count_as_serving(path: str) -> None:
    async def work() -> None:
        now = 0.0
        board = Board(path, "mark", lambda: now)
        for name in "ab":
            await board.join(name)
            await board.report(name, 1, "")
            await board.push(name, counts(5), [])
        now = 9.0
        await board.push("a", counts(6), [])
        assert await board.serving() == 2
        now = 11.0
        assert await board.serving() == 1
        assert total(await board.counts("a")) == 5  # what it had counted stays
        await board.push("b", counts(6), [])  # it had only been slow
        assert await board.serving() == 2
        assert total(await board.counts("a")) == 6

    run(work)


def test_gauges_end_when_another_replica_takes_the_place_of_one_that_was_killed(path: str) -> None:
    async def work() -> None:
        now = 0.0
        board = Board(path, "mark", lambda: now)
        for name in "ab":
            await board.join(name)
            await board.push(name, counts(5, "gauge") + counts(7), [])
        now = 3.0  # a was killed
        await board.push("b", counts(5, "gauge") + counts(7), [])
        await board.join("c")
        await board.push("c", counts(5, "gauge") + counts(7), [])
        await board.report("c", 1, "")
        assert total(await board.counts("none")) == 31
        await board.push("a", counts(5, "gauge") + counts(7), [])  # it had only been slow
        assert total(await board.counts("none")) == 36

    run(work)


def test_replicas_that_were_killed_are_forgotten_but_for_what_they_counted(path: str) -> None:
    async def work() -> None:
        now = 0.0
        board = Board(path, "mark", lambda: now)
        for number in range(1, 101):  # again and again
            now += 100
            await board.join(f"{number}")
            assert await board.push(f"{number}", counts(5, "gauge") + counts(number), [])
        now += 5
        assert total(await board.counts("none")) == 5050 + 5, "the gauge of the last alone"
        assert len(await board.counts("none")) < 20
        assert not await board.push("1", counts(1), ["late"])  # so that it ends, and is not counted twice
        await board.leave("1", counts(1), [])
        await board.report("1", 1, "")
        assert total(await board.counts("none")) == 5050 + 5
        assert await board.serving() == 0
        assert await board.lines(5) == ["late"]

    run(work)


def test_what_a_replica_says_after_it_has_left_is_not_counted_again(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        await board.join("a")
        await board.leave("a", counts(7), [])
        await board.push("a", counts(7), [])
        assert total(await board.counts("none")) == 7

    run(work)


def test_a_reload_counts_once_for_all_replicas(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        for good in (True, False, True):
            await board.settle(await board.propose(path), good)
        ((family,), *_) = await board.counts("a")
        assert (family.name, family.samples) == ("ensemble_reloads", (("ensemble_reloads_total", (), 2.0),))

    run(work)


def test_lines_of_the_log_are_given_once(path: str) -> None:
    async def work() -> None:
        board = Board(path, "mark")
        assert await board.lines(0.01) == []
        waiting = asyncio.create_task(board.lines(5))
        await asyncio.sleep(0.01)
        await board.push("a", (), ["1", "2"])
        assert await waiting == ["1", "2"]
        await board.leave("a", (), ["3"])
        assert await board.lines(5) == ["3"]
        assert await board.lines(0.01) == []

    run(work)
