"""Static web servers, good and bad, over real sockets."""

import base64
import gzip
import hashlib
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.sources.servers import HASTY, QUICK, Behaviour, certificate, running, serve, server_context
from zoo.errors import CorruptError, NotFoundError, SourceError, UsageError
from zoo.sources.patience import Patience
from zoo.sources.ranged import RangedTransport, open_ranged
from zoo.sources.transport import ignore
from zoo.sources.web import Web

__all__ = ["certificate"]  # a fixture

BIG = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(BIG).hexdigest()
SPAN = 50_000


@pytest.fixture(autouse=True)
def no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no proxy, certificate or password of this machine take part."""
    for variable in [v for v in os.environ if v.lower().endswith("_proxy") or v.startswith("SSL_CERT")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "part"


def small_spans(url: str, span: int = SPAN, patience: Patience = QUICK) -> RangedTransport:
    return RangedTransport(Web(url, patience), patience, span=span)


def test_read() -> None:
    with serve(Behaviour({"/zoo/index.json": b"{}"})) as server:
        for url in (f"{server.url}/zoo", f"{server.url}/zoo/"):
            source = open_ranged(url, QUICK)
            assert source.label == url
            assert source.read("index.json", 2) == b"{}"
            assert source.read("missing.json", 2) is None
            with pytest.raises(CorruptError, match=f"{url}: index.json is longer than the 1 bytes"):
                source.read("index.json", 1)
        assert [path for path, _ in server.asked] == ["/zoo/index.json", "/zoo/missing.json", "/zoo/index.json"] * 2


def test_nothing_stale_is_read() -> None:
    with serve(Behaviour({"/index.json": b"{}"})) as server:
        source = open_ranged(server.url, QUICK)
        assert source.read("index.json", 2) == b"{}"
        server.behaviour.files["/index.json"] = b"[]"
        assert source.read("index.json", 2) == b"[]"
        assert {headers["Cache-Control"] for _, headers in server.asked} == {"no-cache"}  # for proxies


def test_it_can_only_be_read() -> None:
    with pytest.raises(UsageError, match=r"https://example\.org can only be read: push to the folder or bucket behind"):
        open_ranged("https://example.org").publish({"index.json": b""}, "")


def test_paths_are_quoted() -> None:
    with serve(Behaviour({"/zoo/a%20b%25%3F/%C3%BC%23": b"odd"})) as server:
        assert open_ranged(f"{server.url}/zoo", QUICK).read("a b%?/ü#", 9) == b"odd"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("have", [0, 1, 70_000, len(BIG) - 1])
def test_fetch_from_any_byte_on(part: Path, have: int, framing: str, ranges: bool) -> None:
    part.write_bytes(BIG[:have])
    with serve(Behaviour({"/big": BIG}, ranges=ranges, framing=framing)) as server:
        assert small_spans(server.url).fetch("big", len(BIG), part, ignore) == DIGEST
        assert part.read_bytes() == BIG
        assert server.sent["/big"] == len(BIG) - (have if ranges else 0)


def test_the_server_that_comes_with_python(tmp_path: Path, part: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    (tmp_path / "www" / "a").mkdir(parents=True)
    (tmp_path / "www" / "a" / "big").write_bytes(BIG)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www"))
    with running(server):
        source = small_spans(f"http://127.0.0.1:{server.server_port}/")
        part.write_bytes(BIG[:123_456])
        assert source.fetch("a/big", len(BIG), part, ignore) == DIGEST
        assert part.read_bytes() == BIG
        assert source.read("b", 9) is None


def test_ranges_are_fetched_side_by_side(part: Path) -> None:
    """The first range shows that the server knows ranges; the next three are sent only when all have been asked for."""
    meeting = threading.Barrier(3)
    with serve(Behaviour({"/big": BIG})) as server:
        store = Web(server.url, QUICK)
        plain = store._get

        def get(path: str, headers: dict[str, str]) -> object:
            if headers["Range"] != "bytes=0-49999":
                meeting.wait(5)
            return plain(path, headers)

        store._get = get  # type: ignore[method-assign,assignment]
        size = 4 * SPAN
        server.behaviour.files["/big"] = BIG[:size]
        assert RangedTransport(store, QUICK, span=SPAN).fetch("big", size, part, ignore)
    assert part.read_bytes() == BIG[:size]


def test_one_connection_serves_many_ranges(part: Path) -> None:
    connections = []
    with serve(Behaviour({"/big": BIG})) as server:
        plain = server.process_request

        def count(request: object, address: object) -> None:
            connections.append(address)
            plain(request, address)  # type: ignore[arg-type]

        server.process_request = count  # type: ignore[method-assign,assignment]
        RangedTransport(Web(server.url, QUICK), QUICK, span=10_000, ahead=2).fetch("big", len(BIG), part, ignore)
        assert len(server.asked) == 30
    assert len(connections) <= 3


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("stall", [False, True])
def test_a_cut_costs_nothing_that_has_arrived(part: Path, stall: bool, framing: str) -> None:
    faults = [30_000, 10_000] if not stall else [30_000]
    with serve(Behaviour({"/big": BIG}, faults=faults, stall=stall, framing=framing)) as server:
        patience = HASTY if stall else QUICK
        assert small_spans(server.url, patience=patience).fetch("big", len(BIG), part, ignore) == DIGEST
        assert part.read_bytes() == BIG
        assert not server.behaviour.faults
        assert server.sent["/big"] == len(BIG)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_cut_of_a_server_without_ranges(part: Path, framing: str) -> None:
    with serve(Behaviour({"/big": BIG}, ranges=False, framing=framing, faults=[123_456])) as server:
        assert small_spans(server.url).fetch("big", len(BIG), part, ignore) == DIGEST
        assert part.read_bytes() == BIG
        assert server.sent["/big"] == 123_456 + len(BIG)


def test_a_server_that_goes_silent_is_given_up_and_gone_on_from(part: Path) -> None:
    """Three requests bring nothing; then the same call goes on after what the first ones brought."""
    with serve(Behaviour({"/big": BIG}, faults=[30_000] + [0] * 12, stall=True)) as server:
        source = small_spans(server.url, len(BIG), HASTY)
        with pytest.raises(
            SourceError,
            match=rf"{server.url}: big broke off after 30000 of 300000 bytes \(nothing came for 0.5 s\); the",
        ):
            source.fetch("big", len(BIG), part, ignore)
        assert part.read_bytes() == BIG[:30_000]
        server.behaviour.faults.clear()
        assert source.fetch("big", len(BIG), part, ignore) == DIGEST
        assert server.sent["/big"] == len(BIG)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_busy_server_is_asked_again(part: Path, status: int) -> None:
    with serve(Behaviour({"/big": BIG}, statuses=[status, status])) as server:
        assert small_spans(server.url).fetch("big", len(BIG), part, ignore) == DIGEST
        server.behaviour.statuses += [status]
        assert small_spans(server.url).read("big", len(BIG)) == BIG
        server.behaviour.statuses += [status] * 3
        with pytest.raises(SourceError, match=rf"{server.url}: big: the server answers {status} .*; try again later"):
            small_spans(server.url).read("big", len(BIG))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("off", [-1, 1, -100_000])
def test_a_file_of_another_length_is_corrupt(part: Path, off: int, framing: str, ranges: bool) -> None:
    with (
        serve(Behaviour({"/big": BIG}, ranges=ranges, framing=framing)) as server,
        pytest.raises(CorruptError, match=f"{server.url}: big has (300000 bytes, and should have|more than)"),
    ):
        small_spans(server.url).fetch("big", len(BIG) + off, part, ignore)
    assert part.stat().st_size <= len(BIG) + min(off, 0)


def test_a_file_that_ends_before_what_is_there_already(part: Path) -> None:
    part.write_bytes(BIG[:200_000])
    with (
        serve(Behaviour({"/big": BIG[:100_000]})) as server,
        pytest.raises(CorruptError, match="big ends before byte 200000"),
    ):
        small_spans(server.url).fetch("big", len(BIG), part, ignore)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_length_that_the_body_does_not_have(part: Path, ranges: bool) -> None:
    """The header promises more than comes."""
    with serve(Behaviour({"/big": BIG}, claims={"/big": len(BIG) + 10}, ranges=ranges)) as server:
        with pytest.raises(SourceError, match="big broke off after 300000 of 300010 bytes"):
            small_spans(server.url).fetch("big", len(BIG) + 10, part, ignore)
        with pytest.raises(CorruptError, match="big has 300010 bytes, and should have 300000"):
            small_spans(server.url).fetch("big", len(BIG), part.with_name("other"), ignore)


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (410, NotFoundError)])
def test_a_missing_file(part: Path, status: int, error: type[Exception]) -> None:
    with serve(Behaviour({"/big": BIG}, statuses=[status])) as server, pytest.raises(error, match="has no big"):
        small_spans(server.url).fetch("big", len(BIG), part, ignore)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_tried_again(part: Path, status: int) -> None:
    with serve(Behaviour({"/big": BIG}, statuses=[status])) as server:
        with pytest.raises(SourceError, match=rf"big: the server refuses \({status}\): it may want credentials"):
            small_spans(server.url).fetch("big", len(BIG), part, ignore)
        server.behaviour.statuses += [418]
        with pytest.raises(SourceError, match=r"the server's answer \(418\) is not what was asked for"):
            small_spans(server.url).read("big", 9)
        assert len(server.asked) == 2


def test_credentials_come_from_the_url_or_netrc_and_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = base64.b64encode(b"ann:s3cr@t").decode()
    with serve(Behaviour({"/index.json": b"{}"}, password=password)) as server:
        host = server.url.removeprefix("http://")
        source = open_ranged(f"http://ann:s3cr%40t@{host}", QUICK)
        assert source.read("index.json", 9) == b"{}"
        assert source.label == server.url
        with pytest.raises(SourceError, match="may want credentials") as caught:
            open_ranged(f"http://ann:wrong-one@{host}", QUICK).read("index.json", 9)
        assert "wrong-one" not in str(caught.value)
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login ann password s3cr@t\n")
        monkeypatch.setenv("NETRC", str(netrc))
        assert open_ranged(server.url, QUICK).read("index.json", 9) == b"{}"
        netrc.write_text("machine\n")
        with pytest.raises(UsageError, match=r"netrc, line \d"):
            open_ranged(server.url, QUICK)


def test_credentials_do_not_follow_a_redirect_to_another_server() -> None:
    with serve(Behaviour({"/a": b"1"})) as other:
        first = Behaviour({"/b": b"2"}, redirects={"/a": f"{other.url}/a", "/c": "/b"})
        with serve(first) as server:
            source = open_ranged(f"http://ann:pass@{server.url.removeprefix('http://')}", QUICK)
            assert (source.read("a", 9), source.read("c", 9)) == (b"1", b"2")
            assert [headers.get("Authorization") for _, headers in other.asked] == [None]
            assert {headers.get("Authorization") for _, headers in server.asked} == {"Basic YW5uOnBhc3M="}


def test_a_query_goes_with_every_request() -> None:
    with serve(Behaviour({"/zoo/index.json": b"{}"})) as server:
        source = open_ranged(f"{server.url}/zoo?signature=secret", QUICK)
        assert source.read("index.json", 9) == b"{}"
        assert server.asked[0][0] == "/zoo/index.json?signature=secret"
        assert source.label == f"{server.url}/zoo?..."


def test_redirects(part: Path) -> None:
    with serve(Behaviour({"/new/big": BIG}, redirects={"/old/big": "/new/big", "/old/loop": "/old/loop"})) as server:
        source = small_spans(f"{server.url}/old")
        assert source.fetch("big", len(BIG), part, ignore) == DIGEST
        with pytest.raises(SourceError, match="loop is redirected more than 10 times"):
            source.read("loop", 9)
        server.behaviour.redirects["/old/ftp"] = "ftp://elsewhere/big"
        with pytest.raises(SourceError, match=f"{server.url}/old: "):
            source.read("ftp", 9)


def test_nothing_is_unpacked_on_the_way(part: Path) -> None:
    bomb = gzip.compress(bytes(len(BIG) * 100))
    with serve(Behaviour({"/bomb": bomb, "/big": BIG}, headers={"Content-Encoding": "gzip"})) as server:
        source = small_spans(server.url)
        with pytest.raises(SourceError, match=r"bomb: the server sends it packed \(gzip\), though asked not to"):
            source.read("bomb", 10 * len(BIG))
        with pytest.raises(SourceError, match="packed"):
            source.fetch("big", len(BIG), part, ignore)
        assert {headers["Accept-Encoding"] for _, headers in server.asked} == {"identity"}
        server.behaviour.headers.clear()
        assert source.read("bomb", len(bomb)) == bomb


def test_tls(part: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Behaviour({"/big": BIG}), server_context(certificate)) as server:
        with pytest.raises(SourceError) as caught:
            small_spans(server.url).read("big", len(BIG))
        assert str(caught.value) == (
            f"{server.url}: its certificate is not to be trusted: self-signed certificate "
            "(SSL_CERT_FILE may name the certificates that are)"
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert small_spans(server.url).fetch("big", len(BIG), part, ignore) == DIGEST
        with serve(Behaviour({"/big": BIG})) as plain:
            server.behaviour.redirects["/big"] = f"{plain.url}/big"
            with pytest.raises(SourceError, match="big is redirected from https to http: refused"):
                small_spans(server.url).read("big", len(BIG))
            assert not plain.asked
            plain.behaviour.redirects["/big"] = f"{server.url}/other"  # the other way is fine
            server.behaviour.files["/other"] = b"1"
            assert small_spans(plain.url).read("big", 9) == b"1"
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(UsageError, match=r"certificates or proxies: .*No such file"):
        open_ranged("https://127.0.0.1")


def test_a_server_that_is_not_there(part: Path) -> None:
    with serve(Behaviour()) as server:
        pass
    with pytest.raises(SourceError, match=f"^{server.url} cannot be reached: .*refused$"):
        open_ranged(server.url).fetch("big", 1, part, ignore)


@pytest.mark.parametrize(
    ("url", "message"),
    [("https://", "names no server"), ("https://host:secret/", "not a URL"), ("http:///zoo", "names no server")],
)
def test_what_is_not_a_url(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_ranged(url)
    assert "secret" not in str(caught.value)
