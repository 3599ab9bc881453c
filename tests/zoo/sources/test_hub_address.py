"""What `hf://` addresses mean, held to the client's own parser."""

import pytest
from huggingface_hub import parse_hf_uri

from zoo.errors import UsageError
from zoo.sources.hub import HubTransport
from zoo.sources.hub_address import parse_address


@pytest.mark.parametrize(
    ("text", "repo", "revision", "folder"),
    [
        ("hf://org/repo", "org/repo", "main", ""),
        ("hf://org/repo/", "org/repo", "main", ""),
        ("hf://Org_1/re.po-2@v1.0", "Org_1/re.po-2", "v1.0", ""),
        ("hf://org/repo/some/folder", "org/repo", "main", "some/folder"),
        ("hf://org/repo@v1/some/folder/", "org/repo", "v1", "some/folder"),
        ("hf://org/repo@feature%2Fx/sub", "org/repo", "feature/x", "sub"),
        ("hf://org/repo@refs/pr/12/sub", "org/repo", "refs/pr/12", "sub"),
        ("hf://org/repo@refs/convert/parquet", "org/repo", "refs/convert/parquet", ""),
        ("hf://org/repo@" + "0123456789" * 4, "org/repo", "0123456789" * 4, ""),
    ],
)
def test_an_address_is_read_as_the_client_reads_it(text: str, repo: str, revision: str, folder: str) -> None:
    address = parse_address(text)
    assert (address.repo, address.revision, address.folder) == (repo, revision, folder)
    theirs = parse_hf_uri(text.rstrip("/"))
    assert (theirs.id, theirs.revision or "main", theirs.path_in_repo) == (repo, revision, folder)
    assert address.label == text.rstrip("/")
    assert parse_address(address.label) == address
    assert address.pinned is (len(revision) == 40)


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf:///",
        "hf://org",
        "hf://org/",
        "hf:///repo",
        "hf:/org/repo",
        "s3://org/repo",
        "hf://org/repo//sub",
        "hf://org/repo/sub//",
        "hf://org/repo/../other",
        "hf://org/repo/a/..",
        "hf://org/repo/./a",
        "hf://../repo",
        "hf://org/..",
        "hf://org/re--po",
        "hf://org/re..po",
        "hf://org/repo.git",
        "hf://-org/repo",
        "hf://org/repo.",
        "hf://org/repo@",
        "hf://org/repo@/sub",
        "hf://org/repo@..",
        "hf://org/repo@a..b",
        "hf://org/repo@a%2F%2Fb",
        "hf://org/repo@a%2F..%2Fb",
        "hf://org/repo@-x",
        "hf://org/repo@x.lock",
        "hf://org/repo@x y",
        "hf://org/repo@x\n",
        "hf://org/repo?a=b",
        "hf://org/repo#x",
        "hf://org/repo/a\\b",
        "hf://org/repo/%2e%2e",
        "hf://org/repo/\x00",
        "hf://user:password@org/repo",
        "hf://datasets/org/repo",
        "hf://spaces/org",
        "hf://" + "x" * 97 + "/repo",
    ],
)
def test_a_malformed_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^source '") as caught:
        HubTransport(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_revision_can_be_given_apart() -> None:
    assert HubTransport("hf://org/repo/sub", "v1").label == "hf://org/repo@v1/sub"
    assert HubTransport("hf://org/repo@v1", "v1").label == "hf://org/repo@v1"
    assert HubTransport("hf://org/repo", "a/b").label == "hf://org/repo@a%2Fb"
    with pytest.raises(UsageError, match="give one of them"):
        HubTransport("hf://org/repo@v1", "v2")
    with pytest.raises(UsageError, match="no branch, tag or commit"):
        HubTransport("hf://org/repo", "../v2")
