"""The Hub as a source, read: the real client, and a Hub on the loopback interface."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from tests.conftest import files_up_to
from tests.hub_server import HubServer
from tests.zoo.sources.conftest import FILES, OTHER, REPO, SOURCE, WEIGHTS, fetch, sha256
from zoo.errors import CorruptError, SourceError, StorageError
from zoo.sources.hub import HubTransport
from zoo.sources.transport import Transport, ignore


def test_the_client_is_imported_late() -> None:
    code = "import sys, zoo.sources.hub; assert not {'huggingface_hub', 'httpx2', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_takes_one_request(hub: HubServer) -> None:
    transport: Transport = HubTransport(SOURCE)
    assert transport.label == SOURCE
    assert transport.read("index.json", 1000) == FILES["index.json"]
    assert [(r.method, r.path) for r in hub.requests] == [("GET", f"/{REPO}/resolve/main/index.json")]
    assert transport.read("missing.json", 1000) is None
    assert transport.read("a", 1000) is None
    assert len(hub.requests) == 3


def test_a_folder_of_a_repository(hub: HubServer, tmp_path: Path) -> None:
    deep = HubTransport(f"{SOURCE}/deep/er")
    assert deep.read("index.json", 1000) == FILES["deep/er/index.json"]
    assert deep.read("a/config.json", 1000) == FILES["deep/er/a/config.json"]
    size = len(FILES["deep/er/index.json"])
    assert deep.fetch("index.json", size, tmp_path / "part", ignore) == sha256(FILES["deep/er/index.json"])
    assert hub.count() == 3


@pytest.mark.parametrize("path", ["../index.json", "a/../index.json", "", "/index.json", "a//b", "a\\b", "a\nb", "."])
def test_a_path_cannot_leave_the_folder(hub: HubServer, tmp_path: Path, path: str) -> None:
    transport = HubTransport(f"{SOURCE}/deep/er")
    with pytest.raises(CorruptError, match="is not a path below it"):
        transport.read(path, 1000)
    with pytest.raises(CorruptError, match="is not a path below it"):
        transport.fetch(path, 10, tmp_path / "part", ignore)
    assert not hub.requests


def test_a_long_file_is_not_read(hub: HubServer) -> None:
    transport = HubTransport(SOURCE)
    assert transport.read("index.json", len(FILES["index.json"])) == FILES["index.json"]
    with pytest.raises(CorruptError, match=r"'index\.json' is longer than the 9 bytes"):
        transport.read("index.json", len(FILES["index.json"]) - 1)
    hub.rate = 5e6
    with pytest.raises(CorruptError, match="longer"):
        transport.read("a/model.safetensors", 1000)
    assert hub.served[f"{REPO}/a/model.safetensors"] < 1_000_000, "no more than is on its way already"


def test_pins(hub: HubServer, tmp_path: Path) -> None:
    first = hub.repos[REPO].branches["main"]
    hub.repos[REPO].tags["v1"] = first
    hub.repos[REPO].branches["feature/x"] = first
    second = hub.commit(REPO, {"index.json": b"second", "a/model.safetensors": OTHER})
    for revision in ("v1", first, "feature/x"):
        pinned = HubTransport(SOURCE, revision)
        assert pinned.read("index.json", 1000) == FILES["index.json"]
        part = tmp_path / revision.replace("/", "-")
        assert pinned.fetch("a/model.safetensors", len(WEIGHTS), part, ignore) == sha256(WEIGHTS)
    for newest in (None, "main", second):
        assert HubTransport(SOURCE, newest).read("index.json", 1000) == b"second"
    assert fetch(tmp_path / "new") == sha256(OTHER)


def test_a_file_is_fetched_and_counted(hub: HubServer, tmp_path: Path) -> None:
    seen: list[int] = []
    part = tmp_path / "part"
    assert HubTransport(SOURCE).fetch("a/model.safetensors", len(WEIGHTS), part, seen.append) == sha256(WEIGHTS)
    assert part.read_bytes() == WEIGHTS
    assert sum(seen) == len(WEIGHTS)
    assert min(seen) > 0
    assert len(seen) > 1
    assert hub.served[f"{REPO}/a/model.safetensors"] == len(WEIGHTS)
    assert hub.count() == 2, "the Hub's redirect, and the storage's content"
    assert fetch(part) == sha256(WEIGHTS)
    assert hub.count() == 2, "what is there is not asked for again"


def test_a_cut_transfer_goes_on_within_a_call(hub: HubServer, tmp_path: Path) -> None:
    hub.cut("model", after=1_000_000, times=2)
    seen: list[int] = []
    part = tmp_path / "part"
    assert HubTransport(SOURCE).fetch("a/model.safetensors", len(WEIGHTS), part, seen.append) == sha256(WEIGHTS)
    assert part.read_bytes() == WEIGHTS
    assert sum(seen) == len(WEIGHTS)
    assert hub.served[f"{REPO}/a/model.safetensors"] == len(WEIGHTS), "no byte twice"


def test_a_cut_transfer_goes_on_in_the_next_call(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    hub.cut("model", after=1_200_000, times=1)
    hub.cut("model", after=0, times=-1)
    with pytest.raises(SourceError, match=r"broke off .*; try again"):
        fetch(part)
    arrived = part.stat().st_size
    assert arrived == 1_200_000
    hub.heal()
    before = len(hub.requests)
    assert fetch(part) == sha256(WEIGHTS)
    assert [r.range for r in hub.requests[before:]] == [f"bytes={arrived}-"] * 2
    assert hub.served[f"{REPO}/a/model.safetensors"] == len(WEIGHTS)


def test_a_killed_transfer_goes_on(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    hub.rate = 1e6
    code = f"from tests.zoo.sources.conftest import *; fetch(Path({str(part)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) as process:
        while not part.exists() or part.stat().st_size < 300_000:
            time.sleep(0.01)
            assert process.poll() is None
        process.kill()
    arrived, hub.rate = part.stat().st_size, None
    before = len(hub.requests)
    assert fetch(part) == sha256(WEIGHTS)
    assert part.read_bytes() == WEIGHTS
    assert {r.range for r in hub.requests[before:]} == {f"bytes={arrived}-"}


def test_the_client_alone_begins_anew(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why files are not left to `hf_hub_download`: it deletes what has arrived when a call fails."""
    monkeypatch.setattr("time.sleep", ignore)
    hub.cut("model", after=1_200_000, times=1)
    hub.cut("model", after=0, times=-1)
    with pytest.raises(Exception, match="peer closed connection"):
        hf_hub_download(REPO, "a/model.safetensors", endpoint=hub.url)
    assert not [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size > 1000]


def test_a_server_without_ranges_is_understood(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "part"
    part.write_bytes(WEIGHTS[:1_500_000])
    monkeypatch.setattr(hub, "ranges", False)
    seen: list[int] = []
    assert HubTransport(SOURCE).fetch("a/model.safetensors", len(WEIGHTS), part, seen.append) == sha256(WEIGHTS)
    assert part.read_bytes() == WEIGHTS
    assert sum(seen) == len(WEIGHTS) - 1_500_000, "what came again, or was there, does not count"


def test_a_wrong_rest_shows_in_the_digest(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"?" * 1000)
    assert fetch(part) == sha256(b"?" * 1000 + WEIGHTS[1000:])
    part.write_bytes(b"?" * (len(WEIGHTS) + 1))
    assert fetch(part) == sha256(WEIGHTS), "what is too long is begun anew"
    assert hub.count("GET", "/storage/") == 2


@pytest.mark.parametrize("size", [len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_another_size_is_refused_before_a_byte_is_taken(hub: HubServer, tmp_path: Path, size: int) -> None:
    part = tmp_path / "part"
    with pytest.raises(CorruptError, match=r"3,072,000 bytes, not 3,07[12],"):
        fetch(part, size=size)
    assert part.stat().st_size == 0
    part.write_bytes(WEIGHTS[:500])
    with pytest.raises(CorruptError, match=r"3,072,000 bytes, not 3,07[12],"):
        fetch(part, size=size)
    assert part.read_bytes() == WEIGHTS[:500]
    assert hub.count() > 0


def test_an_index_that_promises_too_much(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(WEIGHTS)
    with pytest.raises(CorruptError, match=r"'a/model\.safetensors' is shorter than"):
        fetch(part, size=len(WEIGHTS) + 10)
    assert hub.requests[-1].range == f"bytes={len(WEIGHTS)}-"


def test_an_empty_file(hub: HubServer, tmp_path: Path) -> None:
    hub.commit(REPO, {"empty": b""})
    assert HubTransport(SOURCE).read("empty", 10) == b""
    assert fetch(tmp_path / "part", path="empty", size=0) == sha256(b"")
    assert (tmp_path / "part").read_bytes() == b""


def test_a_full_disk(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    with files_up_to(1_500_000), pytest.raises(StorageError, match=f"cannot write {part}: File too large"):
        fetch(part)
    assert part.stat().st_size == 1_500_000, "what fits stays"
    assert fetch(part) == sha256(WEIGHTS)
    assert hub.served[f"{REPO}/a/model.safetensors"] < 2 * len(WEIGHTS)
