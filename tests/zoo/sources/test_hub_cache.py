"""The cache of the Hub's client: used, filled with what is sound only, and all there is offline."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download

from tests.hub_server import HubServer
from tests.zoo.sources.conftest import FILES, OTHER, REPO, SOURCE, WEIGHTS, fetch, scan_cache_files, sha256
from zoo.errors import CorruptError, SourceError
from zoo.sources.hub import HubTransport


def test_a_corruption_of_the_same_size_is_noticed_here_and_not_by_the_client(hub: HubServer, tmp_path: Path) -> None:
    hub.corrupt("model.safetensors", at=777)
    theirs = Path(hf_hub_download(REPO, "a/model.safetensors", endpoint=hub.url, cache_dir=tmp_path / "theirs"))
    assert theirs.stat().st_size == len(WEIGHTS)
    assert theirs.resolve().name == sha256(WEIGHTS), "the client files it under the name of what it should be"
    assert sha256(theirs.read_bytes()) != sha256(WEIGHTS), "which it is not"

    part = tmp_path / "part"
    bad = fetch(part)
    assert bad == sha256(part.read_bytes()) != sha256(WEIGHTS)
    assert scan_cache_files(tmp_path) == {}, "nothing that is damaged gets into the client's cache"

    hub.heal()
    part.unlink()
    assert fetch(part) == sha256(WEIGHTS), "so there is nothing to be forgotten before the next try"


def test_a_damaged_file_of_the_clients_cache_is_replaced(hub: HubServer, tmp_path: Path) -> None:
    hub.corrupt("model.safetensors", at=5)
    theirs = Path(hf_hub_download(REPO, "a/model.safetensors", endpoint=hub.url))
    assert sha256(theirs.read_bytes()) != sha256(WEIGHTS)
    hub.heal()
    again = Path(hf_hub_download(REPO, "a/model.safetensors", endpoint=hub.url))
    assert sha256(again.read_bytes()) != sha256(WEIGHTS), "the client alone keeps it for good"
    assert fetch(tmp_path / "part") == sha256(WEIGHTS)
    assert sha256(again.read_bytes()) == sha256(WEIGHTS), "and is mended on the way"


def test_what_is_pulled_is_in_the_clients_cache(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    HubTransport(SOURCE).read("index.json", 1000)
    fetch(part)
    assert scan_cache_files(tmp_path) == {"index.json": 10, "a/model.safetensors": len(WEIGHTS)}
    blob = Path(hf_hub_download(REPO, "a/model.safetensors", local_files_only=True))
    assert blob.resolve().samefile(part), "it is one file with two names, and takes its space once"
    sent = hub.served.total()
    snapshot = Path(snapshot_download(REPO, endpoint=hub.url, allow_patterns=["a/model*", "index.json"]))
    assert (snapshot / "index.json").read_bytes() == FILES["index.json"]
    assert hub.served.total() == sent, "the client downloads nothing of it again"
    assert [p.name for p in (tmp_path / "hf").rglob(".menagerie*")] == []


def test_what_is_in_the_clients_cache_is_not_downloaded(hub: HubServer, tmp_path: Path) -> None:
    hf_hub_download(REPO, "a/model.safetensors", endpoint=hub.url)
    hf_hub_download(REPO, "a/config.json", endpoint=hub.url)
    hub.served.clear()
    hub.rate = 5e6
    seen: list[int] = []
    part = tmp_path / "part"
    assert HubTransport(SOURCE).fetch("a/model.safetensors", len(WEIGHTS), part, seen.append) == sha256(WEIGHTS)
    assert (part.read_bytes(), sum(seen)) == (WEIGHTS, len(WEIGHTS))
    config = FILES["a/config.json"]
    assert fetch(tmp_path / "config", path="a/config.json", size=len(config)) == sha256(config)
    assert hub.served[f"{REPO}/a/model.safetensors"] < 1_000_000, "no more than is on its way already"


def test_a_file_that_changed_is_not_taken_from_the_cache(hub: HubServer, tmp_path: Path) -> None:
    fetch(tmp_path / "old")
    hub.commit(REPO, {"a/model.safetensors": OTHER})
    assert fetch(tmp_path / "new") == sha256(OTHER)
    assert (tmp_path / "old").read_bytes() == WEIGHTS


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_environment_says_where_the_cache_is(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"{tmp_path}/elsewhere")
    HubTransport(SOURCE).read("index.json", 1000)
    assert hub.count() == 1
    assert [r.repo_id for r in scan_cache_dir(tmp_path / "elsewhere").repos] == [REPO]


def test_a_cache_that_cannot_be_used_does_no_harm(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HF_HUB_CACHE", f"{tmp_path}/file/hub")
    assert HubTransport(SOURCE).read("index.json", 1000) == FILES["index.json"]
    assert fetch(tmp_path / "part") == sha256(WEIGHTS)
    assert hub.count() == 3


@pytest.mark.parametrize("links", [True, False])
def test_offline(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    online = HubTransport(SOURCE)
    online.read("index.json", 1000)
    fetch(tmp_path / "part")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if not links:
        monkeypatch.delattr(os, "link")
        monkeypatch.setattr(os, "link", refuse, raising=False)
    assert online.read("index.json", 1000) == FILES["index.json"]
    assert fetch(tmp_path / "again") == sha256(WEIGHTS)
    assert (tmp_path / "again").samefile(tmp_path / "part") is links
    with pytest.raises(CorruptError, match="has 3,072,000 bytes, not 5"):
        fetch(tmp_path / "again", size=5)
    with pytest.raises(CorruptError, match="longer than the 3 bytes"):
        online.read("index.json", 3)
    for path in ("a/config.json", "missing"):
        with pytest.raises(SourceError, match=f"HF_HUB_OFFLINE is set, and the cache .* no '{path}'"):
            online.read(path, 1000)
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
            fetch(tmp_path / "other", path=path)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
        HubTransport(f"{SOURCE}@v9").read("index.json", 1000)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set, so nothing can be pushed"):
        online.publish({"index.json": b"x"}, "no")
    assert not hub.requests


def refuse(*_: object) -> None:
    raise PermissionError


def test_offline_from_what_the_client_downloaded(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(REPO, endpoint=hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert HubTransport(f"{SOURCE}/deep/er").read("index.json", 1000) == FILES["deep/er/index.json"]
    assert fetch(tmp_path / "part") == sha256(WEIGHTS)


def test_offline_with_a_damaged_index(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(hf_hub_download(REPO, "index.json", endpoint=hub.url)).write_bytes(b"0123456789")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorruptError, match=f"{tmp_path}/hf/hub/.*: delete it"):
        HubTransport(SOURCE).read("index.json", 1000)


def test_offline_since_the_client_was_imported(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set, so the Hub cannot be asked"):
        HubTransport(SOURCE).read("index.json", 1000)
    assert not hub.requests
