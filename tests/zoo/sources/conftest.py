"""A repository on a Hub of one's own, which the real `huggingface_hub` client talks to."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from tests.hub_client import use_hub
from tests.hub_server import HubServer
from zoo.sources import hub as module
from zoo.sources.hub import HubTransport
from zoo.sources.patience import Patience
from zoo.sources.transport import ignore

REPO = "team/zoo"
SOURCE = f"hf://{REPO}"
SECRET = "hf_SecretSecretSecret"  # noqa: S105  # of a Hub on the loopback interface
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
OTHER = WEIGHTS[::-1]
FILES = {
    "index.json": b'{"one": 1}',
    "a/config.json": b'{"name": "a"}',
    "a/model.safetensors": WEIGHTS,
    "deep/er/a/config.json": b'{"name": "deep"}',
    "deep/er/index.json": b'{"deep": 1}',
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(module, "_PATIENCE", Patience(tries=4, pause=0.0))
    with HubServer() as server:
        use_hub(server, monkeypatch, str(tmp_path / "hf"))
        server.create_repo(REPO, FILES)
        server.tokens[SECRET] = True
        yield server


@pytest.fixture
def writer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return hub


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(part: Path, text: str = SOURCE, path: str = "a/model.safetensors", size: int = len(WEIGHTS)) -> str:
    return HubTransport(text).fetch(path, size, part, ignore)


def scan_cache_files(tmp_path: Path) -> dict[str, int]:
    """Return what the client finds in its cache: path in the repository -> bytes."""
    folder = tmp_path / "hf" / "hub"
    if not folder.is_dir():
        return {}
    found = scan_cache_dir(folder)
    assert not found.warnings
    revisions = [revision for repo in found.repos for revision in repo.revisions]
    return {str(file.file_path.relative_to(r.snapshot_path)): file.size_on_disk for r in revisions for file in r.files}
