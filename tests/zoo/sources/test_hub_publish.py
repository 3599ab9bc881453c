"""Publishing on the Hub: one commit, which follows the one that was read."""

import logging
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from tests.hub_server import HubServer
from tests.zoo.sources.conftest import FILES, OTHER, REPO, SOURCE, fetch, sha256
from zoo.errors import NotFoundError, SourceError, UsageError
from zoo.sources.hub import HubTransport
from zoo.sources.transport import ConflictError

# The client's own: its HTTP library has another name by now for what uploads pass.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_publishing_is_one_commit(
    writer: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "weights").write_bytes(OTHER)
    before = len(writer.repos[REPO].commits)
    files: dict[str, bytes | Path] = {
        "b/model.safetensors": tmp_path / "weights",
        "b/config.json": b"{}",
        "index.json": b"new",
    }
    with caplog.at_level(logging.WARNING):
        HubTransport(SOURCE).publish(files, "Add b")
    assert writer.files(REPO) == FILES | {"b/model.safetensors": OTHER, "b/config.json": b"{}", "index.json": b"new"}
    assert len(writer.repos[REPO].commits) == before + 1
    commit = writer.repos[REPO].find("main")
    assert commit is not None
    assert commit.message == "Add b"
    assert commit.tree["b/model.safetensors"].lfs
    assert not commit.tree["b/config.json"].lfs
    assert capfd.readouterr() == ("", ""), "no bars of the client's"
    assert caplog.messages == []
    assert not are_progress_bars_disabled(), "and they are not switched off for others"
    assert HubTransport(SOURCE).read("index.json", 1000) == b"new"
    assert fetch(tmp_path / "part", path="b/model.safetensors") == sha256(OTHER)


def test_publishing_into_a_folder_and_a_branch(writer: HubServer) -> None:
    HubTransport(f"{SOURCE}@work/deep/er").publish({"index.json": b"new"}, "Change")
    assert writer.files(REPO, "work") == FILES | {"deep/er/index.json": b"new"}
    assert writer.files(REPO) == FILES
    card = b"---\nlicense: mit\n---\n"
    HubTransport(f"{SOURCE}@work").publish({"index.json": b"newer", "README.md": card}, "Change again")
    assert writer.files(REPO, "work") == FILES | {
        "deep/er/index.json": b"new",
        "index.json": b"newer",
        "README.md": card,
    }
    assert writer.count("POST", "/api/validate-yaml") == 1


def test_publishing_makes_a_repository(writer: HubServer) -> None:
    transport = HubTransport("hf://team/new/sub")
    with pytest.raises(NotFoundError, match="has no repository"):
        transport.read("index.json", 1000)
    transport.publish({"index.json": b"first"}, "Begin")
    assert writer.files("team/new") == {"sub/index.json": b"first"}
    assert not writer.repos["team/new"].private
    transport.publish({"index.json": b"second"}, "Go on")
    assert transport.read("index.json", 1000) == b"second"


def test_two_pushers_do_not_lose_each_others_index(writer: HubServer) -> None:
    one, two = HubTransport(SOURCE), HubTransport(SOURCE)
    for transport in (one, two):
        assert transport.read("index.json", 1000) == FILES["index.json"]
    one.publish({"index.json": b"one's"}, "One")
    with pytest.raises(ConflictError, match="has changed since it was read, so nothing was written: push again"):
        two.publish({"index.json": b"two's", "b/model.safetensors": OTHER}, "Two")
    assert writer.files(REPO)["index.json"] == b"one's"
    assert writer.count("PUT") == 0, "it was noticed before anything was uploaded"
    assert two.read("index.json", 1000) == b"one's"
    two.publish({"index.json": b"both's"}, "Two again")
    one.publish({"c/config.json": b"{}"}, "What nobody has read can follow anything")
    assert writer.files(REPO) == FILES | {"index.json": b"both's", "c/config.json": b"{}"}


def test_a_commit_during_the_upload_is_noticed(writer: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = HubTransport(SOURCE)
    transport.read("index.json", 1000)
    find = transport._parent

    def overtaken(*arguments: object) -> str:
        parent = find(*arguments)  # type: ignore[arg-type]
        writer.commit(REPO, {"index.json": b"faster"})
        return parent

    monkeypatch.setattr(transport, "_parent", overtaken)
    with pytest.raises(ConflictError, match="push again"):
        transport.publish({"index.json": b"slower"}, "Late")
    assert writer.files(REPO)["index.json"] == b"faster"


def test_a_first_index_of_somebody_else_is_noticed(writer: HubServer) -> None:
    writer.create_repo("team/bare")
    one, two = HubTransport("hf://team/bare"), HubTransport("hf://team/bare")
    assert one.read("index.json", 1000) is two.read("index.json", 1000) is None
    one.publish({"index.json": b"one's"}, "One")
    with pytest.raises(ConflictError, match="push again"):
        two.publish({"index.json": b"two's"}, "Two")

    new = HubTransport("hf://team/new")
    with pytest.raises(NotFoundError):
        new.read("index.json", 1000)
    writer.create_repo("team/new", {"index.json": b"theirs"})
    with pytest.raises(ConflictError, match="push again"):
        new.publish({"index.json": b"mine"}, "Mine")
    assert writer.files("team/new") == {"index.json": b"theirs"}


def test_what_never_changes_cannot_be_pushed_to(writer: HubServer) -> None:
    head = writer.repos[REPO].branches["main"]
    writer.repos[REPO].tags["v1"] = head
    with pytest.raises(UsageError, match="is a commit, which never changes: push to a branch"):
        HubTransport(SOURCE, head).publish({"index.json": b"x"}, "no")
    with pytest.raises(UsageError, match="is a tag, which stays what it is: push to a branch"):
        HubTransport(SOURCE, "v1").publish({"index.json": b"x"}, "no")
    assert writer.files(REPO) == FILES


def test_publishing_without_the_right(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in (REPO, "team/new"):
        with pytest.raises(SourceError, match=r"wants a valid token: set HF_TOKEN or run `hf auth login` \(401"):
            HubTransport(f"hf://{repo}").publish({"index.json": b"x"}, "no")
    hub.tokens["hf_reader"] = False
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    for repo in (REPO, "team/new"):
        with pytest.raises(SourceError, match=r"the token may not do this \(403: .*`hf auth login`") as caught:
            HubTransport(f"hf://{repo}").publish({"index.json": b"x"}, "no")
        assert "hf_reader" not in str(caught.value)
    assert hub.files(REPO) == FILES


def test_an_upload_that_fails(writer: HubServer, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(OTHER)
    writer.fail("/storage/", 403, times=-1)
    with pytest.raises(SourceError, match="403"):
        HubTransport(SOURCE).publish({"b/model.safetensors": tmp_path / "weights"}, "no")
    with pytest.raises(SourceError, match="missing' is not a file"):
        HubTransport(SOURCE).publish({"b/config.json": tmp_path / "missing"}, "no")
    assert writer.files(REPO) == FILES
