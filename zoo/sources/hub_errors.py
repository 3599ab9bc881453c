"""What `huggingface_hub` raises, said in one line each. No token gets into a message."""

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zoo.errors import CorruptError, MenagerieError, NotFoundError, SourceError, UsageError
from zoo.sources.hub_address import HubAddress
from zoo.sources.transport import ConflictError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["conflict", "endpoint", "explain", "is_passing", "network_errors"]

_LOGIN = "set HF_TOKEN or run `hf auth login`"
_PASSING = {408, 429, 500, 502, 503, 504}
_UNREACHED = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
_LONGEST = 200


def endpoint() -> str:
    """Return the Hub's URL, as the environment has it now: `HF_ENDPOINT`, else the public Hub.

    Raises:
        UsageError: it is none.
    """
    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if not url.startswith(("https://", "http://")):
        raise UsageError("HF_ENDPOINT is not a URL: write https://HOST")
    return url.rstrip("/")


def network_errors() -> tuple[type[Exception], ...]:
    """Return the types that the client raises for answers and connections that failed.

    The first is the base of all errors of its HTTP library, which is `httpx` or `httpx2`, depending on its version.
    """
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return (HfHubHTTPError.__bases__[0], ConnectionError)


def is_passing(error: Exception, *, reached: bool) -> bool:
    """Say whether the same request may succeed a moment later; `reached` is whether the Hub has answered before."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return not isinstance(error, OfflineModeIsEnabled) and (reached or type(error).__name__ not in _UNREACHED)


def explain(error: Exception, address: HubAddress, path: str = "") -> MenagerieError:
    """Return the error to raise for one of `network_errors` (or the `ValueError` of a refused commit).

    Args:
        error: what the client raised.
        address: of the source.
        path: of the file that was asked for, in the repository.
    """
    from huggingface_hub import errors  # noqa: PLC0415

    label, host = address.label, urlsplit(endpoint()).netloc.rpartition("@")[2]
    said = " ".join(str(error).split())[:_LONGEST]
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, address, host, path)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return SourceError(f"{label}: HF_HUB_OFFLINE is set, so the Hub cannot be asked")
    if "Timeout" in type(error).__name__:
        return SourceError(f"{label}: {host} does not answer in time (HF_HUB_DOWNLOAD_TIMEOUT sets the seconds)")
    if isinstance(error, ValueError):
        return SourceError(f"{label}: {said}")
    if type(error).__name__ == "ConnectError":  # its text is the reason; that of others may quote headers
        return SourceError(f"{label}: {host} cannot be reached: {said}")
    return SourceError(f"{label}: the connection to {host} broke off ({type(error).__name__}); try again")


def conflict(address: HubAddress) -> ConflictError:
    """Return the error of a push that somebody else's has overtaken."""
    return ConflictError(f"{address.label} has changed since it was read, so nothing was written: push again")


def _refusal(error: "HfHubHTTPError", address: HubAddress, host: str, path: str) -> MenagerieError:
    """Return the error for an answer that is none."""
    from huggingface_hub import errors  # noqa: PLC0415

    label, repo = address.label, address.repo
    status, said = error.response.status_code, " ".join((error.server_message or "").split())[:_LONGEST]
    because = f": {said}" if said else ""
    classes: dict[type[Exception], MenagerieError] = {  # the first is a kind of the second
        errors.GatedRepoError: SourceError(
            f"{label} is gated: ask for access on its page, {endpoint()}/{repo}, and {_LOGIN}"
        ),
        errors.RepositoryNotFoundError: NotFoundError(
            f"{label}: {host} has no repository {repo!r}, or it is private (to be let in, {_LOGIN})"
        ),
        errors.RevisionNotFoundError: NotFoundError(f"{label}: there is no branch, tag or commit {address.revision!r}"),
        errors.EntryNotFoundError: NotFoundError(f"{label}: there is no {path!r} in the repository"),
    }
    codes: dict[int, MenagerieError] = {
        401: SourceError(f"{label}: {host} wants a valid token: {_LOGIN} (401{because})"),
        403: SourceError(f"{label}: the token may not do this (403{because}); for another, {_LOGIN}"),
        404: NotFoundError(f"{label}: {host} has no such repository, revision or file {path!r} (404{because})"),
        409: conflict(address),
        412: conflict(address),
        416: CorruptError(f"{label}: {path!r} is shorter than the source's index says"),
        429: SourceError(f"{label}: {host} has had too many requests: wait a few minutes, or {_LOGIN} (429)"),
    }
    for kind, found in classes.items():
        if isinstance(error, kind):
            return found
    return codes.get(status, SourceError(f"{label}: {host} answers {status}{because}"))
