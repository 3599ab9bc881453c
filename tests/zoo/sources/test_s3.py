"""S3, spoken with moto's server: what is published is there, and broken wires do no harm."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.sources.buckets import Client, ask
from tests.zoo.sources.servers import HASTY, QUICK, Behaviour, Wire, running, serve
from zoo.errors import CorruptError, NotFoundError, SourceError, UsageError
from zoo.sources.bucket import Bucket
from zoo.sources.ranged import RangedTransport, open_ranged
from zoo.sources.transport import ConflictError, ignore

BIG = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(BIG).hexdigest()
URL = "s3://zoo/team"

pytestmark = pytest.mark.usefixtures("bucket")

Put = Callable[[str, bytes], None]
"""Writes a file as somebody else would."""


@pytest.fixture
def put(client: Client) -> Put:
    return lambda key, content: client.put_object(Bucket="zoo", Key=f"team/{key}", Body=content)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "part"


def small_spans(span: int = 50_000) -> RangedTransport:
    return RangedTransport(Bucket(URL, QUICK), QUICK, span=span)


def test_what_is_published_is_there(client: Client, tmp_path: Path, part: Path) -> None:
    source = open_ranged(URL, QUICK)
    assert source.label == URL
    assert source.read("index.json", 9) is None
    local = tmp_path / "local"
    local.write_bytes(BIG)
    source.publish({"a/big": local, "a/empty": b"", "index.json": b"{}"}, "message")
    stored = {o["Key"]: o["Size"] for o in client.list_objects_v2(Bucket="zoo")["Contents"]}
    assert stored == {"team/a/big": len(BIG), "team/a/empty": 0, "team/index.json": 2}
    assert client.get_object(Bucket="zoo", Key="team/a/big")["Body"].read() == BIG
    for reader in (source, open_ranged(URL + "/", QUICK)):
        assert (reader.read("index.json", 9), reader.read("a/empty", 9)) == (b"{}", b"")
        assert reader.read("a", 9) is None
        assert reader.fetch("a/big", len(BIG), part, ignore) == DIGEST
        assert part.read_bytes() == BIG
        part.unlink()


def test_nothing_stale_is_read(client: Client, put: Put, part: Path) -> None:
    source = small_spans()
    for content in (b"1", b"22"):
        source.publish({"index.json": content}, "")
        assert source.read("index.json", 9) == content
    for content in (b"333", b"4444"):  # somebody else's
        put("index.json", content)
        assert source.read("index.json", 9) == open_ranged(URL).read("index.json", 9) == content
        assert source.fetch("index.json", len(content), part, ignore) == hashlib.sha256(content).hexdigest()
        part.unlink()
    client.delete_object(Bucket="zoo", Key="team/index.json")
    assert source.read("index.json", 9) is None


@pytest.mark.parametrize("before", [None, b"0"])
def test_the_second_of_two_publishers_finds_out(client: Client, put: Put, before: bytes | None) -> None:
    if before is not None:
        put("index.json", before)
    one, two = open_ranged(URL, QUICK), open_ranged(URL, QUICK)
    assert one.read("index.json", 9) == two.read("index.json", 9) == before
    one.publish({"index.json": b"one's"}, "")
    with pytest.raises(ConflictError, match=rf"{URL}: index\.json has changed since it was read, nothing was written"):
        two.publish({"a/config.json": b"{}", "index.json": b"two's"}, "")
    assert [o["Key"] for o in client.list_objects_v2(Bucket="zoo")["Contents"]] == ["team/index.json"]
    assert two.read("index.json", 9) == b"one's"
    two.publish({"index.json": b"both's"}, "")
    two.publish({"index.json": b"again"}, "what has not been read since can follow anything")
    assert two.read("index.json", 9) == b"again"


@pytest.mark.parametrize("before", [None, b"0"])
@pytest.mark.parametrize("size", [3, 20 << 20])
def test_an_index_that_changes_during_the_upload_stays(
    client: Client, put: Put, tmp_path: Path, before: bytes | None, size: int
) -> None:
    """The write itself has the condition: nobody can get in between."""
    if before is not None:
        put("index.json", before)
    large = tmp_path / "large"
    large.write_bytes(bytes(size))
    for mine in (b"mine", large):
        source = small_spans()
        source.read("index.json", 9)
        version = source._version

        def overtaken(path: str, version: Callable[[str], str | None] = version) -> str | None:
            found = version(path)
            put("index.json", b"faster")
            return found

        source._version = overtaken  # type: ignore[method-assign]
        with pytest.raises(ConflictError, match=r"index\.json has changed since it was read, and was not replaced"):
            source.publish({"a/config.json": b"{}", "index.json": mine}, "")
        assert client.get_object(Bucket="zoo", Key="team/index.json")["Body"].read() == b"faster"
        if before is None:
            client.delete_object(Bucket="zoo", Key="team/index.json")
        else:
            put("index.json", before)


def test_an_index_that_is_deleted_meanwhile_is_not_written(client: Client, put: Put) -> None:
    put("index.json", b"0")
    source = small_spans()
    source.read("index.json", 9)
    version = source._read_as["index.json"]
    client.delete_object(Bucket="zoo", Key="team/index.json")
    with pytest.raises(ConflictError):
        source.publish({"index.json": b"1"}, "")
    with pytest.raises(ConflictError):
        source._store.write("index.json", b"1", version)
    assert source.read("index.json", 9) is None


def test_files_are_written_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one cannot be written, those after it are not: an index does not name what is not there."""
    with serve(Behaviour(statuses=[200, 503, 403])) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(SourceError, match=f"{URL}: the server refuses"):
            small_spans().publish({"z": b"1", "b": b"2", "index.json": b"3"}, "")
        assert [path.partition("?")[0] for path, _ in server.asked] == ["/zoo/team/z", "/zoo/team/b", "/zoo/team/b"]


def test_a_large_file_goes_up_in_parts(client: Client, tmp_path: Path) -> None:
    local = tmp_path / "local"
    content = bytes(range(256)) * (20 << 12)  # 20 MiB
    local.write_bytes(content)
    small_spans().publish({"large": local}, "")
    about = client.head_object(Bucket="zoo", Key="team/large")
    assert about["ContentLength"] == len(content)
    assert about["ETag"].strip('"').endswith("-3")  # of three parts
    assert client.get_object(Bucket="zoo", Key="team/large")["Body"].read() == content


@pytest.mark.parametrize("have", [0, 70_001, len(BIG) - 1])
def test_fetch_goes_on_from_any_byte(
    moto: str, put: Put, part: Path, monkeypatch: pytest.MonkeyPatch, have: int
) -> None:
    put("big", BIG)
    part.write_bytes(BIG[:have])
    with a_wire(moto, monkeypatch) as wire:
        assert small_spans().fetch("big", len(BIG), part, ignore) == DIGEST
        assert len(BIG) - have <= wire.brought < len(BIG) - have + 10_000  # and headers
    assert part.read_bytes() == BIG


def test_broken_wires_are_gone_on_from(moto: str, put: Put, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("big", BIG)
    with a_wire(moto, monkeypatch) as wire:
        wire.faults = [20_000, 100, 40_000, 5]
        assert small_spans().fetch("big", len(BIG), part, ignore) == DIGEST
        assert not wire.faults
        assert part.read_bytes() == BIG


def test_what_has_arrived_is_not_fetched_again(
    moto: str, put: Put, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("big", BIG)
    with a_wire(moto, monkeypatch) as wire:
        source = RangedTransport(Bucket(URL, QUICK), QUICK, span=50_000, ahead=1)

        def cut_after_two(amount: int) -> None:
            del amount
            if part.stat().st_size == 100_000:
                wire.faults = [20_000] * QUICK.tries

        with pytest.raises(SourceError, match=f"{URL}: big broke off after 100000 of 300000 bytes"):
            source.fetch("big", len(BIG), part, cut_after_two)
        assert part.read_bytes() == BIG[:100_000]
        before = wire.brought
        assert source.fetch("big", len(BIG), part, ignore) == DIGEST
        assert wire.brought - before < 210_000
    assert part.read_bytes() == BIG


def test_a_file_of_another_length_is_corrupt(put: Put, part: Path) -> None:
    put("big", BIG)
    with pytest.raises(CorruptError, match=f"{URL}: big has 300000 bytes, and should have 300001"):
        small_spans().fetch("big", len(BIG) + 1, part, ignore)
    with pytest.raises(CorruptError, match="big is longer than the 299999 bytes"):
        small_spans().read("big", len(BIG) - 1)


def test_what_is_not_there(part: Path) -> None:
    with pytest.raises(NotFoundError, match=f"{URL} has no big"):
        small_spans().fetch("big", 1, part, ignore)
    nowhere = open_ranged("s3://nowhere/team", QUICK)
    assert nowhere.read("index.json", 9) is None
    with pytest.raises(SourceError, match=r"s3://nowhere/team cannot be written to: .*bucket does not exist"):
        nowhere.publish({"index.json": b""}, "")
    with pytest.raises(UsageError, match="names no bucket"):
        open_ranged("s3://", QUICK)


def test_credentials_that_are_refused(moto: str, part: Path) -> None:
    ask(f"{moto}/moto-api/reset-auth", b"0")  # from the next request on, credentials are looked at
    try:
        for use in (
            lambda: small_spans().read("index.json", 9),
            lambda: small_spans().fetch("big", 9, part, ignore),
            lambda: small_spans().publish({"index.json": b""}, ""),
        ):
            with pytest.raises(SourceError, match=rf"{URL}: the server refuses \(.*\(AWS_PROFILE, or AWS_ACCESS"):
                use()
    finally:
        ask(f"{moto}/moto-api/reset-auth", b"inf")


def test_without_credentials_requests_are_anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with serve(Behaviour({"/zoo/team/index.json": b"{}"})) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert small_spans().read("index.json", 9) == b"{}"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ann")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        assert small_spans().read("index.json", 9) == b"{}"
        signed = [headers.get("Authorization", "anonymous").split("/")[0] for _, headers in server.asked]
        assert signed == ["anonymous", "AWS4-HMAC-SHA256 Credential=ann"], "one request each"
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(SourceError, match=r"s3://zoo/team: The config profile \(missing\) could not be found"):
        open_ranged(URL)


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with serve(Behaviour({"/zoo/team/index.json": b"{}"}, statuses=[status, status])) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert small_spans().read("index.json", 9) == b"{}"
        server.behaviour.statuses += [status] * QUICK.tries
        with pytest.raises(SourceError, match=f"{URL}: index.json: .*; try again later"):
            small_spans().read("index.json", 9)


def test_a_silent_server_and_one_that_is_not_there(
    moto: str, put: Put, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("big", BIG)
    with a_wire(moto, monkeypatch) as wire:
        wire.faults, wire.stall = [0] * HASTY.tries, True
        with pytest.raises(SourceError, match=f"{URL}: big: Read timeout on endpoint URL"):
            open_ranged(URL, HASTY).fetch("big", len(BIG), part, ignore)
    with pytest.raises(SourceError, match=f"^{URL} cannot be reached: Could not connect to the endpoint URL"):
        open_ranged(URL).read("index.json", 9)


@contextmanager
def a_wire(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Put a wire that can be cut between us and an endpoint."""
    wire = Wire(int(endpoint.rpartition(":")[2]))
    with running(wire):
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire
        wire.halt.set()
