"""The Hub client's cache on disk, which every Hugging Face library shares.

Its layout is documented (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):

    HF_HOME/hub/models--ORG--REPO/blobs/ETAG                 content; the ETag is the sha256 of a file that LFS stores,
                                                             and of another the sha1 that git gives to its blob
                                 /snapshots/COMMIT/PATH      a relative link to it
                                 /refs/REVISION              the commit that a branch or tag was, last time

The client checks the size of what it puts there, and nothing of what it finds. Here a file goes in only if its content
is what its name says, and is used under the same condition.
"""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.files import sha256_file

__all__ = ["Blob", "HubCache", "hub_folder", "is_offline"]

_CHUNK = 1 << 20
_TRUE = {"1", "ON", "YES", "TRUE"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_offline() -> bool:
    """Say whether the environment forbids to ask the Hub (`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`)."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def hub_folder() -> Path:
    """Return the cache's root, as the environment has it now (the client's own constant is as old as its import)."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(chosen)).expanduser()


@dataclass(frozen=True)
class Blob:
    """A file of a repository as the Hub's headers describe it.

    Attributes:
        etag: sha256, or the sha1 of git's blob, in hex digits; None if it is neither (some mirrors).
        commit: hash of the commit that the revision means now; None if unknown.
    """

    etag: str | None
    commit: str | None

    @classmethod
    def of(cls, etag: str | None, commit: str | None) -> "Blob":
        """Read the two headers; what could not be a hash is dropped, for both become names of files."""
        etag = (etag or "").removeprefix("W/").strip('"')
        known = commit if commit and _COMMIT.fullmatch(commit) else None
        return cls(etag if _ETAG.fullmatch(etag) else None, known)

    def names(self, content: bytes | Path, sha256: str) -> bool:
        """Say whether the ETag is that of a content (or file) with this sha256."""
        if self.etag is None or len(self.etag) == len(sha256):
            return self.etag == sha256
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == self.etag


class HubCache:
    """The cached files of a model repository.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit hash.
    """

    def __init__(self, repo: str, revision: str) -> None:
        self.repo = repo
        self.revision = revision
        self.folder = hub_folder() / f"models--{repo.replace('/', '--')}"

    def find(self, path: str) -> Path | None:
        """Return the file that the cache has for a path at the revision, unchecked."""
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

        found = try_to_load_from_cache(self.repo, path, self.folder.parent, self.revision)
        return Path(found).resolve() if isinstance(found, str) else None

    def blob(self, blob: Blob, size: int) -> Path | None:
        """Return the file of `size` bytes that the cache has for an ETag, if its content is what its name says."""
        if blob.etag is None:
            return None
        with suppress(OSError):  # none, or as good as none
            file = (self.folder / "blobs" / blob.etag).resolve(strict=True)
            if file.stat().st_size == size and blob.names(file, sha256_file(file)):
                return file
        return None

    def keep(self, path: str, blob: Blob, content: bytes | Path, sha256: str) -> None:
        """Put a file into the cache if it is what its ETag says; a file on the same file system is linked, not copied.

        A cache that cannot be written (read-only, full, another file system without links) is left as it is.

        Args:
            path: in the repository.
            blob: what the Hub's headers said.
            content: bytes, or a file that nobody will write to again.
            sha256: of the content.
        """
        if blob.etag is None or blob.commit is None:
            return
        target, snapshot = self.folder / "blobs" / blob.etag, self.folder / "snapshots" / blob.commit / path
        with suppress(OSError):  # a convenience for next time: what was asked for is there without it
            if not blob.names(content, sha256):
                return
            with _replacing(target) as new:
                if isinstance(content, bytes):
                    new.write_bytes(content)
                else:
                    os.link(content, new)
            with _replacing(snapshot) as new:
                new.symlink_to(os.path.relpath(target, snapshot.parent))
            if self.revision != blob.commit:
                with _replacing(self.folder / "refs" / self.revision) as new:
                    new.write_text(blob.commit)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a path for a new file or link that takes the place of `target` when the block ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".menagerie.", dir=target.parent) as folder:
        new = Path(folder) / "new"
        yield new
        new.replace(target)
