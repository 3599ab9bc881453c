"""Ranges: any beginning, any pieces and any cuts give the same bytes and digest, and nothing comes twice."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import files_up_to
from zoo.errors import CorruptError, NotFoundError, SourceError, StorageError, UsageError
from zoo.sources.patience import Patience, TransientError, Tries
from zoo.sources.ranged import RangedTransport, open_ranged
from zoo.sources.ranges import Stream, line, shown
from zoo.sources.transport import ConflictError, Transport, ignore

HASTE = Patience(tries=3, pause=0.0)


@dataclass
class Fake:
    """A store in memory that hands bytes out in pieces and breaks off as told.

    Attributes:
        content: of its only file, `f`.
        pieces: sizes of chunks, over and over.
        cuts: bytes after which a request breaks off, a number each.
        whole: it does not know ranges.
        tells: it knows the size without opening the file.
        given: byte ranges that were handed out.
    """

    content: bytes
    pieces: tuple[int, ...] = (1000,)
    cuts: list[int] = field(default_factory=list)
    whole: bool = False
    tells: bool = False
    given: list[tuple[int, int]] = field(default_factory=list)
    label: str = "fake://"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def size(self, path: str) -> int | None:
        self._check(path)
        return len(self.content) if self.tells else None

    def _check(self, path: str) -> None:
        if path != "f":
            raise NotFoundError(f"no {path}")

    @contextmanager
    def open(self, path: str, start: int, stop: int | None) -> Iterator[Stream]:
        self._check(path)
        whole = self.whole or stop is None
        first, last = (0, len(self.content)) if whole or stop is None else (start, stop)
        with self.lock:
            cut = self.cuts.pop(0) if self.cuts else len(self.content)
        yield Stream(self._chunks(first, last, cut), whole=whole, total=len(self.content))

    def _chunks(self, start: int, stop: int, cut: int) -> Iterator[bytes]:
        at, end, turn = start, min(stop, start + cut), 0
        while at < end:
            to = min(at + self.pieces[turn % len(self.pieces)], end)
            with self.lock:
                self.given.append((at, to))
            yield self.content[at:to]
            at, turn = to, turn + 1
        if end < stop:
            raise TransientError("cut")

    def write(self, path: str, content: bytes | Path, over: str | None = None) -> None:
        raise UsageError(f"{path}, {over}: {len(str(content))}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    content=st.binary(max_size=300),
    pieces=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 60), max_size=6),
    span=st.integers(1, 80),
    ahead=st.integers(1, 5),
    kind=st.sampled_from(["ranges", "ranges, tells", "whole"]),
)
def test_any_beginning_pieces_and_cuts_give_the_same_bytes(
    tmp_path: Path,
    data: st.DataObject,
    content: bytes,
    pieces: list[int],
    cuts: list[int],
    span: int,
    ahead: int,
    kind: str,
) -> None:
    have = data.draw(st.integers(0, len(content)), label="have")
    part = tmp_path / "part"
    part.write_bytes(content[:have])
    store = Fake(content, tuple(pieces), cuts, whole=kind == "whole", tells=kind == "ranges, tells")
    patience = Patience(tries=10, pause=0.0)
    heard: list[int] = []
    digest = RangedTransport(store, patience, span=span, ahead=ahead).fetch("f", len(content), part, heard.append)
    assert (part.read_bytes(), digest) == (content, sha256(content))
    assert sum(heard) == len(content) - have
    if kind != "whole":  # every byte once, and only what was missing
        assert sorted(b for start, stop in store.given for b in range(start, stop)) == list(range(have, len(content)))


def test_a_part_that_is_too_long_is_something_else(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"x" * 11)
    assert RangedTransport(Fake(b"0123456789")).fetch("f", 10, part, ignore) == sha256(b"0123456789")
    assert part.read_bytes() == b"0123456789"


def test_a_part_that_is_whole_costs_no_request(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"0123456789")
    store = Fake(b"0123456789")
    assert RangedTransport(store).fetch("f", 10, part, ignore) == sha256(b"0123456789")
    assert store.given == []


@pytest.mark.parametrize("whole", [False, True])
def test_what_has_arrived_stays_and_is_gone_on_from(tmp_path: Path, whole: bool) -> None:
    content = bytes(range(100))
    store = Fake(content, (7,), [35, 0, 0, 0] if not whole else [35, 35, 35, 35], whole=whole)
    part = tmp_path / "part"
    transport = RangedTransport(store, HASTE, span=50, ahead=1)
    with pytest.raises(
        SourceError, match=r"fake://: f broke off after 35 of 100 bytes \(cut\); the same command goes on"
    ):
        transport.fetch("f", 100, part, ignore)
    assert part.read_bytes() == content[:35]
    store.cuts.clear()
    assert transport.fetch("f", 100, part, ignore) == sha256(content)
    assert part.read_bytes() == content


def test_an_interrupt_keeps_what_has_arrived(tmp_path: Path) -> None:
    content = bytes(range(100))
    part = tmp_path / "part"
    transport = RangedTransport(Fake(content, (7,)), span=20)

    def interrupt(amount: int) -> None:
        if part.stat().st_size + amount > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transport.fetch("f", 100, part, interrupt)
    arrived = part.read_bytes()
    assert 50 < len(arrived) < 70
    assert content.startswith(arrived)


def test_no_more_ranges_are_in_memory_than_asked_for(tmp_path: Path) -> None:
    store = Fake(bytes(1000), (1000,))
    part = tmp_path / "part"
    furthest: list[int] = []

    def look(amount: int) -> None:
        del amount
        with store.lock:
            furthest.append(max(stop for _, stop in store.given) - part.stat().st_size)

    RangedTransport(store, span=50, ahead=3).fetch("f", 1000, part, look)
    assert len(furthest) == 20
    assert max(furthest) <= 3 * 50


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("size", [99, 101])
def test_another_length_is_refused_before_anything_is_written(tmp_path: Path, size: int, tells: bool) -> None:
    part = tmp_path / "part"
    with pytest.raises(CorruptError, match=f"fake://: f has 100 bytes, and should have {size}"):
        RangedTransport(Fake(bytes(100), tells=tells)).fetch("f", size, part, ignore)
    assert part.read_bytes() == b""


def test_a_missing_file(tmp_path: Path) -> None:
    transport = RangedTransport(Fake(b"1"))
    assert transport.read("g", 10) is None
    with pytest.raises(NotFoundError, match="no g"):
        transport.fetch("g", 1, tmp_path / "part", ignore)


@pytest.mark.parametrize("tells", [False, True])
def test_read_up_to_a_limit(tells: bool) -> None:
    transport = RangedTransport(Fake(b"0123456789", (3,), tells=tells))
    assert transport.read("f", 10) == b"0123456789"
    with pytest.raises(CorruptError, match="fake://: f is longer than the 9 bytes that it may have"):
        transport.read("f", 9)


def test_read_tries_again_from_the_beginning() -> None:
    store = Fake(b"0123456789", (3,), [4, 5])
    assert RangedTransport(store, HASTE).read("f", 10) == b"0123456789"
    store.cuts = [1, 2, 3]
    with pytest.raises(SourceError, match="fake://: f: cut; try again later"):
        RangedTransport(store, HASTE).read("f", 10)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    part = tmp_path / "part"
    with files_up_to(5000), pytest.raises(StorageError, match=f"cannot write {part}: File too large"):
        RangedTransport(Fake(bytes(9000))).fetch("f", 9000, part, ignore)
    assert part.stat().st_size == 5000
    with pytest.raises(StorageError, match="No such file"):
        RangedTransport(Fake(b"1")).fetch("f", 1, tmp_path / "missing" / "part", ignore)


def test_pauses_double() -> None:
    waited: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0)
            return False

    tries = Tries(Patience(tries=4, pause=0.5), 100, Clock())
    assert [tries.again(100) for _ in range(4)] == [True, True, True, False]
    assert waited == [0.5, 1.0, 2.0]
    assert tries.again(101), "after a byte the next one may fail as often"
    assert waited == [0.5, 1.0, 2.0, 0.5]


@pytest.mark.parametrize("have", [3, 12])
def test_a_part_that_is_linked_elsewhere_is_replaced_and_not_written_to(tmp_path: Path, have: int) -> None:
    cached, part = tmp_path / "cached", tmp_path / "part"
    cached.write_bytes(b"0123456789ab"[:have])
    part.hardlink_to(cached)
    assert RangedTransport(Fake(b"0123456789")).fetch("f", 10, part, ignore) == sha256(b"0123456789")
    assert part.read_bytes() == b"0123456789"
    assert cached.read_bytes() == b"0123456789ab"[:have]


def test_a_first_file_of_somebody_else_is_not_replaced() -> None:
    one, two = open_ranged("memory://race/zoo"), open_ranged("memory://race/zoo")
    assert one.read("index.json", 9) is two.read("index.json", 9) is None
    one.publish({"index.json": b"one's"}, "")
    with pytest.raises(ConflictError, match=r"^memory://race/zoo: index\.json has changed since .* nothing was"):
        two.publish({"a/config.json": b"{}", "index.json": b"two's"}, "")
    with pytest.raises(ConflictError, match=r"index\.json has changed since it was read, and was not replaced"):
        two._store.write("index.json", b"two's", "")
    assert (one.read("index.json", 9), one.read("a/config.json", 9)) == (b"one's", None)


def test_any_fsspec_protocol_will_do(tmp_path: Path) -> None:
    transport: Transport = open_ranged("memory://ranged/zoo/")
    big, file = bytes(range(256)) * 10, tmp_path / "big"
    file.write_bytes(big)
    assert transport.read("index.json", 100) is None
    transport.publish({"a/big": file, "empty": b"", "index.json": b"{}"}, "message")
    assert transport.label == "memory://ranged/zoo/"
    assert (transport.read("index.json", 2), transport.read("empty", 9)) == (b"{}", b"")
    assert transport.fetch("a/big", len(big), tmp_path / "part", ignore) == sha256(big)
    assert (tmp_path / "part").read_bytes() == big
    with pytest.raises(CorruptError, match="longer than the 1 bytes"):
        transport.read("index.json", 1)
    with pytest.raises(NotFoundError, match="memory://ranged/zoo/ has no a"):
        transport.fetch("a", 10, tmp_path / "folder", ignore)


def test_an_unknown_protocol_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="source 'nonsense://x': Protocol not known: nonsense"):
        open_ranged("nonsense://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"s3:// sources need s3fs: pip install 'menagerie\[s3\]'"):
        open_ranged("s3://bucket/zoo")


def test_slow_libraries_are_imported_when_they_are_needed() -> None:
    slow = ("fsspec", "httpx2", "aiohttp", "torch")
    code = f"import sys, zoo.sources.ranged; print([m for m in {slow} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@host:1/zoo", "https://host:1/zoo"),
        ("https://token@host", "https://host"),
        ("https://host/zoo@v1/", "https://host/zoo@v1/"),
        ("https://host/zoo?signature=secret", "https://host/zoo?..."),
        ("s3://bucket/zoo", "s3://bucket/zoo"),
    ],
)
def test_secrets_of_a_url_are_not_shown(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_errors_are_one_line() -> None:
    assert (line(ValueError("a\n b")), line(ValueError())) == ("a b", "ValueError")
