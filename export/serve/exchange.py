"""A request as it comes in, and a reply as it goes out."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from export.serve.intake import Receive
from export.serve.problem import Problem

__all__ = ["Reply", "Request", "timestamp"]


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        body: before it is compressed.
        content_type: of the body.
        status: of HTTP.
        headers: besides those that every answer has.
    """

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Request:
    """A request, whose body may still be on its way.

    Attributes:
        headers: by their names in lower case; of several with one name, the last.
        notes: what the log says of it.
        unread: whether there is more of the body.
    """

    def __init__(self, scope: dict[str, Any], receive: Receive) -> None:
        self._scope, self._receive = scope, receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.notes: dict[str, Any] = {}
        self.unread = self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    @property
    def method(self) -> str:
        """In capitals."""
        return str(self._scope["method"])

    @property
    def version(self) -> str:
        """Of HTTP, such as 1.1."""
        return str(self._scope.get("http_version", "1.1"))

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        return str(self._scope["path"])

    @property
    def client(self) -> str | None:
        """Address of the client."""
        client = self._scope.get("client")
        return client[0] if client else None

    @property
    def refusal(self) -> Problem | None:
        """Why it is refused, if the connection says so; there may have been no request at all, and no path."""
        found: Problem | None = self._scope.get("state", {}).get("refusal")
        return found

    @property
    def last(self) -> bool:
        """Whether the connection ends after the answer."""
        return self.refusal is not None or "last" in self._scope.get("state", {})

    def header(self, name: bytes) -> str:
        """Return a header's value; empty without one."""
        return self.headers.get(name, b"").decode("latin-1")

    def query(self, name: str) -> str | None:
        """Return the last value of a parameter after the question mark."""
        values = parse_qs(self._scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    async def receive(self) -> dict[str, Any]:
        """Return ASGI's next message."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.unread = False
        return message


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment as lines of the log have it, such as `2026-01-31T12:00:00.000Z`; in UTC [default: now]."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
