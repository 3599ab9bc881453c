"""Bodies within limits: of one, of all together, and of time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from export.serve.intake import Gone, Intake
from export.serve.problem import Problem


class Client:
    """What ASGI gives of a body that comes in parts; without an end, it never comes."""

    def __init__(self, *parts: bytes, end: bool = True, hangs_up: bool = False) -> None:
        last = len(parts) - 1
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not end or number < last}
            for number, part in enumerate(parts)
        ]
        if hangs_up:
            self.messages.append({"type": "http.disconnect"})
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
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


def test_too_many_requests_at_once() -> None:
    intake = Intake(2, 1000)
    with intake.admitted(), intake.admitted():
        assert intake.inside == 2
        with pytest.raises(Problem, match="2 requests are waiting already: try again") as caught, intake.admitted():
            pass
        assert caught.value.status == 429
        assert (b"retry-after", b"1") in caught.value.headers
    assert intake.inside == 0
    with intake.admitted():
        pass


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
