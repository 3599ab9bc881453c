"""Bodies within limits: of one, of all together, and of time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from export.serve.intake import Gone, Intake
from export.serve.problem import Problem


class Client:
    """What ASGI gives of a body that comes in parts; without an end, it never comes."""

    def __init__(self, *parts: bytes, end: bool = True, hangs_up: bool = False, pause: float = 0.0) -> None:
        last = len(parts) - 1
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not end or number < last}
            for number, part in enumerate(parts)
        ]
        if hangs_up:
            self.messages.append({"type": "http.disconnect"})
        self.asked, self.pause = 0, pause

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        await asyncio.sleep(self.pause)
        if not self.messages:
            await asyncio.sleep(60)
        return self.messages.pop(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def read(client: Client, *, length: bytes | None = None, most: int = 100, seconds: float = 5.0) -> bytes:
    async def work() -> bytes:
        with Intake(1, 10_000).admitted() as held:
            headers = {} if length is None else {b"content-length": length}
            return await held.read(client.receive, headers, most=most, seconds=seconds)

    return asyncio.run(asyncio.wait_for(work(), 10))


@pytest.mark.parametrize("parts", [(b"",), (b"hello",), (b"he", b"l", b"", b"lo"), (b"x" * 100,)])
@pytest.mark.parametrize("says", [True, False])
def test_a_body_in_parts(parts: tuple[bytes, ...], says: bool) -> None:
    whole = b"".join(parts)
    assert read(Client(*parts), length=str(len(whole)).encode() if says else None) == whole


@pytest.mark.parametrize("length", [b"101", b"9" * 30, b"9" * 10_000])
def test_a_body_that_says_it_is_too_large_is_not_read_at_all(length: bytes) -> None:
    client = Client(b"x")
    with pytest.raises(Problem, match="larger than 100 bytes") as caught:
        read(client, length=length)
    assert (caught.value.status, client.asked) == (413, 0)


def test_a_body_that_turns_out_to_be_too_large_is_not_read_to_its_end() -> None:
    client = Client(*[b"x" * 60] * 50)
    with pytest.raises(Problem, match="larger than 100 bytes") as caught:
        read(client)
    assert (caught.value.status, client.asked) == (413, 2)


@pytest.mark.parametrize("parts", [(), (b"x",)])
def test_a_body_that_does_not_arrive(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(Problem, match=r"did not arrive within 0.05 seconds") as caught:
        read(Client(*parts, end=False), seconds=0.05)
    assert caught.value.status == 408


def test_a_client_that_hangs_up() -> None:
    with pytest.raises(Gone):
        read(Client(b"x", end=False, hangs_up=True))


@pytest.mark.parametrize(("size", "enough"), [(1, False), (30, False), (300, True)])
def test_a_body_that_comes_slowly(monkeypatch: pytest.MonkeyPatch, size: int, enough: bool) -> None:
    monkeypatch.setattr("export.serve.intake.GRACE", 0.2)
    monkeypatch.setattr("export.serve.intake.RATE", 2000)
    client = Client(*[b"x" * size] * 15, pause=0.05)  # 20, 600 and 6000 bytes a second
    if enough:
        assert read(client, most=10_000) == b"x" * 4500
    else:
        with pytest.raises(Problem, match="the body comes slower than 2,000 bytes a second") as caught:
            read(client, most=10_000)
        assert caught.value.status == 408
        assert client.asked < 15


def test_too_many_requests_at_once() -> None:
    async def work() -> None:
        intake = Intake(2, 1000)
        with intake.admitted() as one, intake.admitted() as two, intake.admitted() as three:
            for held in (one, two):
                await held.read(Client(b"x").receive, {}, most=100, seconds=5)
            assert intake.inside == 2
            with pytest.raises(Problem, match="2 requests are waiting already: try again") as caught:
                await three.read(Client(b"x").receive, {}, most=100, seconds=5)
            assert caught.value.status == 429
            assert (b"retry-after", b"1") in caught.value.headers
            with pytest.raises(Problem, match="2 requests are waiting already"), intake.admitted():
                pass  # before anything is read
        assert intake.inside == 0
        with intake.admitted() as again:
            await again.read(Client(b"x" * 100).receive, {}, most=100, seconds=5)

    run(work())


def test_bodies_that_are_announced_and_do_not_come_keep_nobody_out() -> None:
    async def work() -> None:
        intake, silent = Intake(1, 1000), Client(end=False)

        async def announce() -> None:
            with intake.admitted() as held:
                await held.read(silent.receive, {b"content-length": b"1000"}, most=1000, seconds=5)

        tasks = [asyncio.create_task(announce()) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert silent.asked == len(tasks)
        with intake.admitted() as held:
            assert len(await held.read(Client(b"x" * 900).receive, {}, most=1000, seconds=5)) == 900
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(work())


def test_memory_is_shared_and_given_back() -> None:
    async def work() -> None:
        intake = Intake(10, 100)
        for _ in range(3):
            with intake.admitted() as one, intake.admitted() as other:
                await one.read(Client(b"x" * 60).receive, {b"content-length": b"60"}, most=100, seconds=5)
                with pytest.raises(Problem, match="take all memory") as caught:
                    await other.read(Client(b"x" * 41).receive, {}, most=100, seconds=5)
                assert caught.value.status == 429
                assert await other.read(Client(b"x" * 40).receive, {}, most=100, seconds=5) == b"x" * 40

    run(work())


def test_memory_of_requests_that_fail_is_given_back() -> None:
    async def work() -> None:
        intake = Intake(10, 100)
        for _ in range(3):
            with pytest.raises(Gone), intake.admitted() as held:
                await held.read(Client(b"x" * 90, end=False, hangs_up=True).receive, {}, most=100, seconds=5)
        assert intake.inside == 0

    run(work())
