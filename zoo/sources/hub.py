"""The Hugging Face Hub as a source: `hf://org/repo[@revision][/folder]`.

Requests go through `huggingface_hub`: its session (proxies, certificates), addresses, tokens, offline mode and errors,
and its cache on disk, which is used and filled. Files are streamed by this module, not by `hf_hub_download`, which

- takes a HEAD and a GET to read an index, and reads it whole however long it is; here it is one bounded GET;
- throws away what has arrived when it is interrupted; here that stays in `part`, and the next call goes on after it;
- checks sizes only, so that content has to be read again to be hashed; here it is hashed while it arrives.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo.errors import CorruptError, SourceError, StorageError, UsageError
from zoo.files import storage_errors
from zoo.sources.hub_address import parse_address
from zoo.sources.hub_cache import Blob, HubCache, is_offline
from zoo.sources.hub_errors import conflict, endpoint, explain, is_passing, network_errors
from zoo.sources.hub_request import blob_of, first_byte, open_file, token, whole_size
from zoo.sources.part import Part
from zoo.sources.patience import Patience, Tries

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["HubTransport"]

T = TypeVar("T")

_PATIENCE = Patience()
"""How often to ask; how long to wait for an answer is for `HF_HUB_DOWNLOAD_TIMEOUT` to say."""

_ABSENT = ""
"""Stands for the commit of a repository or branch that is not there yet."""


class HubTransport:
    """Files of a model repository on the Hub; see `Transport`.

    Args:
        text: `hf://org/repo[@revision][/folder]`.
        revision: branch, tag or commit hash, if it is not in the text; by default `main`.

    Raises:
        UsageError: malformed.
    """

    def __init__(self, text: str, revision: str | None = None) -> None:
        self.address = parse_address(text, revision)
        self.label = self.address.label
        self._read_at: dict[str, str] = {}  # path in the repository -> the commit it was last read at

    def read(self, path: str, limit: int) -> bytes | None:
        """See `Transport.read`; one request.

        Raises:
            NotFoundError: there is no such repository or revision, or it is not to be seen without a token.
            CorruptError, SourceError: as `Transport.read` says.
        """
        inside = self.address.inside(path)
        if is_offline():
            return self._read_cached(inside, limit)
        return self._persist(lambda: self._read(inside, limit), inside)

    def fetch(self, path: str, size: int, part: Path, progress: Callable[[int], None]) -> str:
        """See `Transport.fetch`. What the Hub client's cache has already is taken from there.

        When this has returned, `part` may share its storage with that cache: rename or delete it, do not write to it.
        """
        inside = self.address.inside(path)
        cache = HubCache(self.address.repo, self.address.revision)
        growing = Part(part, size, progress)
        if is_offline() and not growing.whole:
            there = cache.find(inside)
            if there is None:
                raise self._not_cached(inside)
            growing.adopt(there, f"{path!r} in the cache of the Hub's client")
        elif not growing.whole:
            self._persist(lambda: self._fetch(inside, growing, cache), inside, lambda: growing.count)
        return growing.sha256

    def publish(self, files: Mapping[str, bytes | Path], message: str) -> None:
        """See `Transport.publish`; one commit. A missing repository or branch is made, as `hf upload` does.

        If a file among `files` has been read by this object, and its branch has got a commit since, nothing is written.

        Raises:
            UsageError: the revision is a commit or a tag.
            ConflictError, SourceError: as above, or as `Transport.publish` says.
        """
        from huggingface_hub import CommitOperationAdd, HfApi  # noqa: PLC0415

        address = self.address
        if address.pinned:
            raise UsageError(f"{self.label} is a commit, which never changes: push to a branch")
        if is_offline():
            raise SourceError(f"{self.label}: HF_HUB_OFFLINE is set, so nothing can be pushed")
        inside = {address.inside(path): content for path, content in files.items()}
        expected: tuple[type[Exception], ...] = (*network_errors(), ValueError)
        try:
            with _no_bars():
                api = HfApi(endpoint=endpoint(), token=token() or False, library_name="menagerie")
                parent = self._parent(api, {self._read_at[path] for path in inside if path in self._read_at})
                additions = [CommitOperationAdd(path, content) for path, content in inside.items()]
                api.create_commit(
                    address.repo, additions, commit_message=message, revision=address.revision, parent_commit=parent
                )
        except RuntimeError as error:  # what the client wraps the failure of an upload in
            if not isinstance(error.__cause__, expected):
                raise
            raise explain(error.__cause__, address) from error
        except expected as error:
            raise explain(error, address) from error
        except OSError as error:
            raise StorageError(f"cannot read {error.filename or 'what is to be pushed'}: {error.strerror}") from error
        self._read_at.clear()

    def _parent(self, api: "HfApi", read_at: set[str]) -> str:
        """Return the commit to follow; `ConflictError` if it is not the one that was read."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError  # noqa: PLC0415

        repo, branch = self.address.repo, self.address.revision
        try:
            refs = api.list_repo_refs(repo, include_pull_requests=branch.startswith("refs/"))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            api.create_repo(repo)  # a conflict (409) if somebody else has just done so
            refs = api.list_repo_refs(repo)
            read_at = read_at - {_ABSENT}
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        heads |= {ref.ref: ref.target_commit for ref in (*refs.converts, *(refs.pull_requests or []))}
        if branch not in heads:
            if branch in {ref.name for ref in refs.tags}:
                raise UsageError(f"{self.label} is a tag, which stays what it is: push to a branch")
            if read_at - {_ABSENT}:
                raise conflict(self.address)  # it has been there
            api.create_branch(repo, branch=branch)
            return heads["main"]
        if read_at - {heads[branch]}:
            raise conflict(self.address)
        return heads[branch]

    def _read(self, inside: str, limit: int) -> bytes | None:
        from huggingface_hub import errors  # noqa: PLC0415

        content = bytearray()
        try:
            with open_file(self.address, inside) as response:
                blob = blob_of(response)
                if (whole_size(response) or 0) > limit:
                    raise self._too_long(inside, limit)
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > limit:
                        raise self._too_long(inside, limit)
        except errors.RemoteEntryNotFoundError as error:
            if commit := error.response.headers.get("X-Repo-Commit"):
                self._read_at[inside] = commit
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            self._read_at[inside] = _ABSENT
            raise
        if blob.commit:
            self._read_at[inside] = blob.commit
        found = bytes(content)
        cache = HubCache(self.address.repo, self.address.revision)
        cache.keep(inside, blob, found, hashlib.sha256(found).hexdigest())
        return found

    def _read_cached(self, inside: str, limit: int) -> bytes:
        there = HubCache(self.address.repo, self.address.revision).find(inside)
        if there is None:
            raise self._not_cached(inside)
        with storage_errors(there), there.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise self._too_long(inside, limit)
        blob = Blob.of(there.name, None)
        if blob.etag and not blob.names(content, hashlib.sha256(content).hexdigest()):
            raise CorruptError(f"{there} is not what it was when the Hub's client filed it: delete it")
        return content

    def _fetch(self, inside: str, growing: Part, cache: HubCache) -> None:
        """Bring what is missing of a file, from where it has come to."""
        with open_file(self.address, inside, growing.count) as response:
            blob, total, begin = blob_of(response), whole_size(response), first_byte(response)
            if total not in {None, growing.size}:
                raise CorruptError(f"{self.label}: {inside!r} has {total:,} bytes, not {growing.size:,}")
            if begin not in {0, growing.count}:
                raise SourceError(
                    f"{self.label}: asked for byte {growing.count:,} of {inside!r}, it sends another part"
                )
            there = cache.blob(blob, growing.size)
            if there is not None:
                growing.adopt(there, inside)
                return
            # In the pieces that the network brings: what waits to fill a larger one is lost when the connection breaks.
            growing.append(response.iter_bytes(), skip=growing.count - begin)
        if not growing.whole:
            raise ConnectionError("the response ended early")
        cache.keep(inside, blob, growing.path, growing.sha256)

    def _persist(self, attempt: Callable[[], T], inside: str, arrived: Callable[[], int] = lambda: 0) -> T:
        """Try until it succeeds, or has failed a few times in a row without a new byte."""
        tries = Tries(_PATIENCE, arrived())
        while True:
            try:
                return attempt()
            except network_errors() as error:
                if not (is_passing(error, reached=arrived() > 0) and tries.again(arrived())):
                    raise explain(error, self.address, inside) from error

    def _too_long(self, inside: str, limit: int) -> CorruptError:
        return CorruptError(f"{self.label}: {inside!r} is longer than the {limit:,} bytes that such a file may have")

    def _not_cached(self, inside: str) -> SourceError:
        return SourceError(
            f"{self.label}: HF_HUB_OFFLINE is set, and the cache of the Hub's client has no {inside!r} of this revision"
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the client from drawing its own progress bars, unless the environment says what it shall do."""
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
