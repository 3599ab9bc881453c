"""From the text that names a source to its transport."""

from urllib.parse import urlsplit

from zoo.errors import UsageError
from zoo.sources.ranges import shown
from zoo.sources.transport import Transport

__all__ = ["is_remote", "open_transport"]

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def is_remote(text: str) -> bool:
    """Say whether a source is a URL rather than a folder."""
    return "://" in text


def open_transport(text: str, revision: str | None = None) -> Transport:
    """Return the transport of a remote source: `hf://org/repo[@revision][/sub]`, `s3://bucket[/sub]`, `https://...`.

    Args:
        text: the source's URL.
        revision: branch, tag or commit of a Hub's repository.

    Raises:
        UsageError: malformed, or a kind of source that this version does not know.
    """
    scheme = text.partition("://")[0].lower()
    if scheme == "hf":
        from zoo.sources.hub import HubTransport  # noqa: PLC0415

        return HubTransport(text, revision)
    if revision is not None:
        raise UsageError(f"--revision {revision}: only hf:// sources have revisions, {shown(text)!r} has none")
    if scheme == "http" and urlsplit(text).hostname not in _LOOPBACK:
        raise UsageError(f"source {shown(text)!r}: what comes over http:// can be changed on its way: use https://")
    if scheme in {"http", "https", "s3"}:
        from zoo.sources.ranged import open_ranged  # noqa: PLC0415

        return open_ranged(text)
    raise UsageError(f"source {shown(text)!r}: this version reads folders, hf://, s3:// and https://, not {scheme}://")
