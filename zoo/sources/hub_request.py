"""A request for a file of the Hub, and what its answer says."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from zoo.errors import UsageError
from zoo.sources.hub_address import HubAddress
from zoo.sources.hub_cache import Blob
from zoo.sources.hub_errors import endpoint
from zoo.sources.redirects import follow

if TYPE_CHECKING:
    from httpx2 import Response

__all__ = ["blob_of", "first_byte", "open_file", "token", "whole_size"]


@contextmanager
def open_file(address: HubAddress, inside: str, start: int = 0) -> Iterator["Response"]:
    """Ask for a file, from byte `start` on, and yield the answer to be streamed.

    Args:
        address: of the source.
        inside: path in the repository.
        start: bytes that are there already.

    Raises:
        Exception: one of `network_errors`; see `explain`.
        UsageError: the token cannot be one.
        SourceError: as `follow` says.
    """
    from huggingface_hub import (  # noqa: PLC0415
        __version__,
        constants,
        get_session,
        hf_hub_url,
        hf_raise_for_status,
    )

    url = hf_hub_url(address.repo, inside, revision=address.revision, endpoint=endpoint())
    headers = {"user-agent": f"menagerie; hf_hub/{__version__}", "accept-encoding": "identity"}
    if secret := token():
        headers["authorization"] = f"Bearer {secret}"  # which the session keeps from other hosts
    if start:
        headers["range"] = f"bytes={start}-"
    session = get_session()
    request = session.build_request("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with closing(follow(session, request, f"{address.label}: {inside!r}")) as response:
        hf_raise_for_status(response)
        yield response


def blob_of(response: "Response") -> Blob:
    """Read the headers of the answer, or of the redirect that led to it: storage behind the Hub has others."""
    for answer in (*response.history, response):
        if commit := answer.headers.get("X-Repo-Commit"):
            return Blob.of(answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag"), commit)
    return Blob.of(None, None)


def first_byte(response: "Response") -> int:
    """Return which byte of the file an answer begins with."""
    text: str = response.headers.get("Content-Range") or "bytes 0-"
    first = text.removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def whole_size(response: "Response") -> int | None:
    """Return how many bytes the whole file has, if the answer says so."""
    ranged: str | None = response.headers.get("Content-Range")
    text = ranged.rpartition("/")[2] if ranged else response.headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else None


def token() -> str | None:
    """Return the token to send, if there is one: `HF_TOKEN`, or what `hf auth login` has stored."""
    from huggingface_hub import constants, get_token  # noqa: PLC0415

    found = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if found and not (found.isascii() and found.isprintable() and " " not in found):
        raise UsageError("HF_TOKEN (or what `hf auth login` has stored) has characters that no token has: set it anew")
    return found
