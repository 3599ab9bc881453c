"""What `hf://org/repo[@revision][/sub/folder]` means."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from zoo.errors import CorruptError, UsageError

__all__ = ["HubAddress", "parse_address"]

_SCHEME = "hf://"
_OWNER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]{0,253}[A-Za-z0-9_+-])?")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,127}")
_SLASHED = re.compile(r"(?P<revision>refs/(?:pr/[0-9]+|convert/[A-Za-z0-9_.-]+))(?:/|$)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_KINDS = {"models", "datasets", "spaces", "kernels", "buckets"}


@dataclass(frozen=True)
class HubAddress:
    """A folder of a model repository at a revision.

    Attributes:
        repo: `org/name`.
        revision: branch, tag or commit hash.
        folder: below the repository's root, without slashes at its ends; empty for the root.
        label: what to call it: the text it was read from, with the revision in it.
    """

    repo: str
    revision: str
    folder: str
    label: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit's hash, so that nothing can change."""
        return _COMMIT.fullmatch(self.revision) is not None

    def inside(self, path: str) -> str:
        """Return where a file below this folder lies in the repository.

        Raises:
            CorruptError: the path has empty parts, `.` or `..`: some list of files is not to be trusted.
        """
        if any(part in {"", ".", ".."} for part in path.split("/")) or "\\" in path or not path.isprintable():
            raise CorruptError(f"{self.label}: {path[:80]!r} is not a path below it")
        return f"{self.folder}/{path}" if self.folder else path


def parse_address(text: str, revision: str | None = None) -> HubAddress:
    """Read `hf://org/repo[@revision][/sub/folder]`, as `huggingface_hub` writes it.

    A `/` in a revision is written `%2F`, but for `refs/pr/N` and `refs/convert/NAME`.

    Args:
        text: the address.
        revision: given apart from it (`--revision`).

    Raises:
        UsageError: malformed, or with two revisions.
    """
    body = text[len(_SCHEME) :].removesuffix("/")
    owner, _, rest = body.partition("/")
    name, folder, written = rest.partition("/")[0], rest.partition("/")[2], None
    if "@" in rest and "@" in name:
        name, _, after = rest.partition("@")
        special = _SLASHED.match(after)
        written = special["revision"] if special else after.partition("/")[0]
        folder = after[len(written) :].removeprefix("/")
        written = written if special else unquote(written)
    if text[: len(_SCHEME)].lower() != _SCHEME or not (_is_name(owner) and _is_name(name)):
        raise _malformed(text, "write hf://org/repo[@revision][/folder]")
    if owner in _OTHER_KINDS:
        raise _malformed(text, "a zoo is a model repository, written hf://org/repo")
    if revision is not None and written is not None and revision != written:
        raise UsageError(f"source {text!r} says revision {written!r} and --revision {revision!r}: give one of them")
    wanted = revision if revision is not None else written
    if wanted is not None and not _is_revision(wanted):
        raise _malformed(text, f"{wanted[:80]!r} is no branch, tag or commit")
    parts = folder.split("/") if folder or body.endswith("/") else []
    if not all(_FOLDER.fullmatch(part) for part in parts):
        raise _malformed(text, f"{folder[:80]!r} is no folder in a repository")
    shown = "" if wanted is None else f"@{wanted if _SLASHED.fullmatch(wanted) else wanted.replace('/', '%2F')}"
    label = f"{_SCHEME}{owner}/{name}{shown}" + (f"/{folder}" if folder else "")
    return HubAddress(f"{owner}/{name}", wanted or "main", folder, label)


def _is_name(text: str) -> bool:
    """Say whether a text can be an organisation or a repository; see `huggingface_hub`'s `validate_repo_id`."""
    return _OWNER.fullmatch(text) is not None and not ("--" in text or ".." in text or text.endswith(".git"))


def _is_revision(text: str) -> bool:
    """Say whether a text can be a branch, tag or commit; see `git check-ref-format`."""
    odd = ".." in text or "//" in text or "/." in text
    return _REVISION.fullmatch(text) is not None and not odd and not text.endswith(".lock")


def _malformed(text: str, why: str) -> UsageError:
    return UsageError(f"source {text[:200]!r}: {why}")
