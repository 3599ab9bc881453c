"""What a fake Hub keeps in memory: repositories with a history like git's, and who may see them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Commit", "File", "Repo"]

_LARGE = (".safetensors", ".npz", ".pth", ".bin", ".onnx")
_LARGEST_REGULAR = 10_000_000


@dataclass(frozen=True)
class File:
    """A file of a commit. As on the Hub, weights and everything large are stored by LFS, by their sha256."""

    content: bytes
    lfs: bool

    @classmethod
    def of(cls, path: str, content: bytes) -> "File":
        return cls(content, is_large(path, len(content)))

    @property
    def oid(self) -> str:
        """The ETag: sha256 of an LFS file, else the sha1 that git gives to a blob."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False).hexdigest()

    def listed(self, path: str) -> dict[str, Any]:
        """Return what the tree endpoint says of it."""
        about: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return about | ({"lfs": {"oid": self.oid, "size": len(self.content), "pointerSize": 134}} if self.lfs else {})


def is_large(path: str, size: int) -> bool:
    """Say whether the Hub would store a file by LFS."""
    return size > 0 and (path.endswith(_LARGE) or size > _LARGEST_REGULAR)


@dataclass(frozen=True)
class Commit:
    """A state of a repository's files."""

    sha: str
    message: str
    parent: str | None
    tree: Mapping[str, File]


@dataclass
class Repo:
    """A repository: commits, and the branches and tags that name some."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def find(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag or a full hash means."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def add(
        self, files: Mapping[str, bytes | File], message: str, branch: str = "main", gone: Iterable[str] = ()
    ) -> str:
        """Commit files, existing ones replaced, and return the commit's hash."""
        parent = self.branches.get(branch)
        tree = dict(self.commits[parent].tree) if parent else {}
        tree |= {path: File.of(path, c) if isinstance(c, bytes) else c for path, c in files.items()}
        tree = {
            path: tree[path] for path in sorted(tree) if not any(path == g or path.startswith(f"{g}/") for g in gone)
        }
        text = repr((self.name, parent, message, [(path, file.oid) for path, file in tree.items()], len(self.commits)))
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = Commit(sha, message, parent, tree)
        self.branches[branch] = sha
        return sha

    def described(self, commit: Commit) -> dict[str, Any]:
        """Return what the model-info endpoint says."""
        return {
            "_id": commit.sha[:24],
            "id": self.name,
            "modelId": self.name,
            "sha": commit.sha,
            "private": self.private,
            "gated": "auto" if self.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in commit.tree],
        }

    def refs(self) -> dict[str, Any]:
        """Return what the refs endpoint says."""

        def listed(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]

        return {
            "branches": listed("heads", self.branches),
            "tags": listed("tags", self.tags),
            "converts": [],
            "pullRequests": [],
        }

    def listing(self, commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return what the tree endpoint says of a folder; empty if there is none."""
        inside = f"{folder}/" if folder else ""
        rows: dict[str, dict[str, Any]] = {}
        for path, file in commit.tree.items():
            if path.startswith(inside):
                first, deeper, _ = path.removeprefix(inside).partition("/")
                if deeper:
                    rows.setdefault(
                        inside + first, {"type": "directory", "path": inside + first, "size": 0, "oid": "0" * 40}
                    )
                if recursive or not deeper:
                    rows[path] = file.listed(path)
        return list(rows.values())
