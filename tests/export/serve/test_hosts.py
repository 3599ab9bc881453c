"""Names by which a server may be called, and pages that may call it."""

import http.client
import socket
from collections.abc import Iterator

import pytest

from export.serve.hosts import Hosts, name_of
from export.serve.problem import Problem
from tests.export.serve.conftest import Site, infer_body, site, some_images


@pytest.fixture(scope="module")
def alone() -> Iterator[Site]:
    """A server as it is on loopback, which a proxy may call by a name."""
    with site(hosts=Hosts(("127.0.0.1", "Cats.Example."))) as found:
        yield found


def status(hosts: Hosts, **headers: str) -> int:
    """Return what becomes of a request with some headers, 200 if it is let in; twice, as the first is remembered."""
    found = set()
    for _ in range(2):
        try:
            hosts.check("1.1", {name.encode(): value.encode("latin-1") for name, value in headers.items()})
            found.add(200)
        except Problem as problem:
            found.add(problem.status)
    (one,) = found
    return one


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.:8000", True),
        ("127.0.0.1", True),
        ("127.0.0.1:", True),
        ("127.9.9.9:80", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("cats.example", True),
        ("cats.EXAMPLE:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("[::2]:8000", False),
        ("::1", False),
        ("[::1", False),
        ("[localhost]", False),
        ("localhost@evil.example", False),
        ("evil.example@localhost", False),
        ("localhost:80:80", False),
        ("localhost:x", False),
        ("127.1", False),
        ("2130706433", False),
        ("", False),
        (" ", False),
        ("lo\xe4calhost", False),
    ],
)
def test_names_of_a_server_on_loopback(host: str, inside: bool) -> None:
    names = ("127.0.0.1", "Cats.Example.")
    assert status(Hosts(names), host=host) == (200 if inside else 421)
    assert status(Hosts(), host=host) == 200  # elsewhere any name will do
    if inside:
        assert status(Hosts(names), host="localhost", origin=f"http://{host}") == 200
    else:
        assert status(Hosts(names), host="localhost", origin=f"https://{host}") == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "chrome-extension://abc", "", "localhost.x"])
def test_pages_of_other_sites(origin: str) -> None:
    assert status(Hosts(("127.0.0.1",)), host="127.0.0.1:8000", origin=origin) == 403
    assert status(Hosts(), host="x", origin=origin) == 200


def test_addresses_of_the_server_itself() -> None:
    assert status(Hosts(("::1",)), host="[::1]:80") == 200
    assert status(Hosts(("here.lan", "fe80::7")), host="here.lan:80") == 200
    assert status(Hosts(("here.lan", "fe80::7")), host="[FE80::7]:80") == 200
    assert status(Hosts(("here.lan", "fe80::7")), host="there.lan") == 421


def test_many_names_are_not_kept() -> None:
    hosts = Hosts(("127.0.0.1",))
    for number in range(1000):
        assert status(hosts, host=f"localhost:{number}") == 200
        assert status(hosts, host=f"evil{number}") == 421
    assert len(hosts._good) < 100


@pytest.mark.parametrize(
    ("authority", "name"), [("a:1", "a"), ("A.b.", "a.b"), ("[::1]:2", "::1"), ("[::1]x", ""), ("a:1:2", "")]
)
def test_names(authority: str, name: str) -> None:
    assert name_of(authority) == name


def test_a_name_that_leads_here_is_not_enough(alone: Site) -> None:
    body, headers = infer_body(some_images(1))
    for method, path in (("GET", "/"), ("GET", "/v2/health/live"), ("GET", "/nix"), ("POST", "/v2/models/tiny/infer")):
        found = alone.ask(method, path, body, {**headers, "Host": f"evil.example:{alone.port}"})
        assert found.status == 421
        assert found.error == (
            f"this server answers on its own machine only, not as 'evil.example:{alone.port}': "
            "whoever runs it can allow a name with --allow-host"
        )
    assert alone.session.batches == []
    for host in ("localhost", f"127.0.0.1:{alone.port}", "cats.example"):
        assert alone.ask("GET", "/v2", headers={"Host": host}).status == 200


def test_a_page_of_another_site_cannot_make_it_work(alone: Site) -> None:
    before = list(alone.session.batches)
    # What a browser sends without asking: a "simple" request of the Fetch standard.
    found = alone.ask("POST", "/classify", b"picture", {"Origin": "https://evil.example", "Content-Type": "text/plain"})
    assert found.status == 403
    assert found.error == (
        "pages of 'https://evil.example' cannot use this server: whoever runs it can allow them with --allow-host"
    )
    assert alone.session.batches == before
    assert alone.ask("POST", "/classify", b"picture", {"Origin": f"http://127.0.0.1:{alone.port}"}).status == 415
    assert alone.ask("POST", "/classify", b"picture", {"Origin": "https://cats.example"}).status == 415
    assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize(("version", "code"), [("1.1", 400), ("1.0", 200)])
def test_a_request_without_a_host(alone: Site, server: Site, version: str, code: int) -> None:
    for found in (alone, server):
        with socket.create_connection(("127.0.0.1", found.port), timeout=10) as sock:
            sock.sendall(f"GET /v2 HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.status == code
            assert (b"no Host header" in answer.read()) is (code == 400)
