"""What people see when the Hub refuses, fails or is not there."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import constants

from tests.hub_server import HubServer
from tests.zoo.sources.conftest import FILES, SECRET, SOURCE, WEIGHTS, fetch, sha256
from zoo.errors import NotFoundError, SourceError, UsageError
from zoo.sources import hub as module
from zoo.sources.hub import HubTransport
from zoo.sources.patience import Patience


def test_a_private_repository_needs_a_token(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create_repo("team/private", FILES, private=True)
    private = HubTransport("hf://team/private")
    with pytest.raises(NotFoundError, match=r"no repository 'team/private', or it is private .*HF_TOKEN .*`hf auth"):
        private.read("index.json", 1000)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert private.read("index.json", 1000) == FILES["index.json"]
    assert fetch(tmp_path / "part", "hf://team/private") == sha256(WEIGHTS)
    assert [r.authorized for r in hub.requests if "/storage/" in r.path] == [False], "the storage gets no token"
    assert hub.strangers == []


def test_a_stored_token(hub: HubServer, tmp_path: Path) -> None:
    hub.create_repo("team/private", FILES, private=True)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{SECRET}\n")
    assert HubTransport("hf://team/private").read("index.json", 1000) == FILES["index.json"]
    assert [r.authorized for r in hub.requests] == [True]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("hf_wrong", r"wants a valid token: set HF_TOKEN or run `hf auth login` \(401"),
        ("hf_wröng", "has characters that no token has"),
        ("hf_wrong hf_wrong", "has characters that no token has"),
    ],
)
def test_a_bad_token_is_not_shown(hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str, message: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises((SourceError, UsageError), match=message) as caught:
        HubTransport(SOURCE).read("index.json", 1000)
    assert "hf_w" not in str(caught.value)
    assert len(hub.requests) <= 1


def test_a_gated_repository(hub: HubServer, tmp_path: Path) -> None:
    hub.create_repo("team/gated", FILES, gated=True)
    with pytest.raises(SourceError, match=rf"is gated: ask for access on its page, {hub.url}/team/gated"):
        HubTransport("hf://team/gated").read("index.json", 1000)
    with pytest.raises(SourceError, match="is gated"):
        fetch(tmp_path / "part", "hf://team/gated")


def test_missing_things(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"hf://team/none: 127.0.0.1:\d+ has no repository 'team/none'"):
        HubTransport("hf://team/none").read("index.json", 1000)
    with pytest.raises(NotFoundError, match="hf://team/zoo@v9: there is no branch, tag or commit 'v9'"):
        HubTransport(f"{SOURCE}@v9").read("index.json", 1000)
    with pytest.raises(NotFoundError, match=r"there is no 'sub/b/model\.safetensors' in the repository"):
        fetch(tmp_path / "part", f"{SOURCE}/sub", "b/model.safetensors")
    assert hub.count() == 3, "what is missing is not asked for again"


def test_passing_errors_are_waited_for(hub: HubServer, tmp_path: Path) -> None:
    hub.fail("index.json", 503, times=2)
    hub.fail("index.json", 429)
    assert HubTransport(SOURCE).read("index.json", 1000) == FILES["index.json"]
    hub.fail("/storage/", 500, times=3)
    assert fetch(tmp_path / "part") == sha256(WEIGHTS)


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (500, 4, r"answers 500: injected$"),
        (503, 4, r"answers 503: injected$"),
        (429, 4, r"too many requests: wait a few minutes.*\(429\)$"),
        (418, 1, r"answers 418: injected$"),
        (403, 1, r"the token may not do this \(403: injected\); for another, set HF_TOKEN or run `hf auth login`$"),
        (404, 1, r"no such repository, revision or file 'index.json' \(404: injected\)$"),
    ],
)
def test_lasting_errors_are_told_in_one_line(hub: HubServer, status: int, tries: int, message: str) -> None:
    hub.fail("index.json", status, times=-1)
    with pytest.raises((SourceError, NotFoundError), match=message) as caught:
        HubTransport(SOURCE).read("index.json", 1000)
    assert "\n" not in str(caught.value)
    assert hub.count() == tries


def test_a_hub_that_does_not_answer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.stall("index.json", 0.4, times=-1)
    with pytest.raises(SourceError, match=r"does not answer in time \(HF_HUB_DOWNLOAD_TIMEOUT"):
        HubTransport(SOURCE).read("index.json", 1000)
    hub.heal()
    hub.stall("index.json", 0.4, times=1)
    assert HubTransport(SOURCE).read("index.json", 1000) == FILES["index.json"]


def test_no_hub_at_all(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = urlsplit(hub.url).port
    hub.__exit__(None, None, None)
    monkeypatch.setattr(module, "_PATIENCE", Patience(pause=99.0))  # it is not waited for
    with pytest.raises(SourceError, match=rf"{SOURCE}: 127.0.0.1:{port} cannot be reached: .*refused"):
        HubTransport(SOURCE).read("index.json", 1000)


@pytest.mark.parametrize("first", ["http://elsewhere.invalid/1", "https://elsewhere.invalid/1"])
def test_a_redirect_to_an_open_connection_is_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Wherever in a chain it is, also if the last hop is encrypted again: the open one could name any last one."""
    chain = {"/1": "http://elsewhere.invalid/2", "/2": "https://elsewhere.invalid/3", "/3": None}
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        assert ("authorization" in request.headers) is (request.url.host == "hub.invalid")
        where = chain.get(request.url.path, first)
        return httpx2.Response(302 if where else 200, headers={"Location": where} if where else {}, content=b"evil")

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr("huggingface_hub.get_session", lambda: client)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(SourceError, match=r"'index\.json' is redirected from https to http: refused"):
        HubTransport(SOURCE).read("index.json", 1000)
    assert not [url for url in asked if url.startswith("http:")], "nor asked where it leads"
    chain["/1"] = "https://elsewhere.invalid/2"
    first = "https://elsewhere.invalid/1"
    assert HubTransport(SOURCE).read("index.json", 1000) == b"evil"
    assert asked[-3:] == [f"https://elsewhere.invalid/{hop}" for hop in (1, 2, 3)]
    assert not hub.requests


def test_redirects_without_end(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = httpx2.Client(
        transport=httpx2.MockTransport(lambda r: httpx2.Response(302, headers={"Location": str(r.url)}))
    )
    monkeypatch.setattr("huggingface_hub.get_session", lambda: client)
    with pytest.raises(SourceError, match=r"'index\.json' is redirected more than 10 times"):
        HubTransport(SOURCE).read("index.json", 1000)
    assert not hub.requests


def test_an_endpoint_that_is_no_url(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", urlsplit(hub.url).netloc)
    with pytest.raises(UsageError, match="HF_ENDPOINT is not a URL"):
        HubTransport(SOURCE).read("index.json", 1000)
