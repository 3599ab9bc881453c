"""Names by which a server may be called: any page can have a name of its own that leads to this machine.

A browser lets a page ask whatever its own name leads to, and the name may lead to 127.0.0.1 a moment later (DNS
rebinding). A server that listens on loopback therefore answers to names of loopback and to those it was told of, and to
no page of another site: a browser sends some requests of such a page without asking, whose answer it only hides.
"""

import ipaddress

from export.serve.problem import Problem

__all__ = ["Hosts", "name_of"]

_KEPT = 64  # headers that were looked at and found good, so that the next request with one need not be


class Hosts:
    """What a server answers to.

    Args:
        names: besides those of loopback, such as a proxy's; None for all names there are.
    """

    def __init__(self, names: tuple[str, ...] | None = None) -> None:
        self._names = None if names is None else frozenset(name.strip("[]").rstrip(".").lower() for name in names)
        self._good: set[tuple[bytes | None, bytes | None]] = set()

    def check(self, version: str, headers: dict[bytes, bytes]) -> None:
        """Raise `Problem` unless a request is for this server: 400 without a `Host`, 421 for another, 403 for a page's.

        Args:
            version: of HTTP, such as 1.1.
            headers: of the request.
        """
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if (host, origin) in self._good:
            return
        if host is None:
            if version != "1.0":
                raise Problem(400, "the request has no Host header, which HTTP/1.1 asks for")
        elif not self._knows(host):
            raise Problem(
                421,
                f"this server answers on its own machine only, not as {_shown(host)}: "
                "whoever runs it can allow a name with --allow-host",
            )
        if origin is not None and not self._knows(origin.rpartition(b"//")[2]):
            raise Problem(
                403,
                f"pages of {_shown(origin)} cannot use this server: whoever runs it can allow them with --allow-host",
            )
        if host is not None and len(self._good) < _KEPT:
            self._good.add((host, origin))

    def _knows(self, authority: bytes) -> bool:
        if self._names is None:
            return True
        name = name_of(authority.decode("latin-1"))
        if name in self._names or name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def name_of(authority: str) -> str:
    """Return the name or address of `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`, in small letters; empty if it is none."""
    name, bracket, rest = authority.removeprefix("[").partition("]")
    if not authority.startswith("["):
        name, _, rest = authority.partition(":")
        rest = rest and f":{rest}"
    elif not bracket or ":" not in name:
        return ""
    if rest and not (rest[0] == ":" and (rest[1:].isdecimal() or not rest[1:])):
        return ""
    return name.rstrip(".").lower()


def _shown(header: bytes) -> str:
    """Return what a client sent, as a short word."""
    return repr("".join(c if c.isprintable() else " " for c in header[:80].decode("latin-1")))
