"""The server as an ASGI application: who may ask, which endpoint it is, and what becomes of errors."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from export.serve.encoding import accepted_encoding, pack
from export.serve.endpoints import Endpoint, Endpoints
from export.serve.exchange import Reply, Request, timestamp
from export.serve.hosts import Hosts
from export.serve.http1 import LINGER
from export.serve.intake import Gone, Receive
from export.serve.problem import Problem

__all__ = ["App", "token_digest"]

_log = logging.getLogger(__name__)

_WORTH_PACKING = 1024
_ALWAYS = [(b"x-content-type-options", b"nosniff")]

Send = Callable[[dict[str, Any]], Awaitable[None]]


def token_digest(token: str) -> bytes:
    """Return what a server keeps of its token: enough to know it again."""
    return hashlib.sha256(token.encode()).digest()


class App:
    """The application.

    Args:
        endpoints: what it can do.
        token: digest of the token that clients need [default: none is needed].
        hosts: by which the server may be called [default: any].
        log: called with a line of JSON for every request [default: nobody reads them].
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        token: bytes | None = None,
        hosts: Hosts | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._endpoints, self._token, self._hosts, self._log = endpoints, token, hosts or Hosts(), log

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI 3 says."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request = Request(scope, receive)
        endpoint = Endpoint("other", frozenset())
        try:
            endpoint = self._endpoints.find(request)
            if request.refusal is not None:
                raise request.refusal
            self._admit(endpoint, request)
            reply = await endpoint.answer(request)
        except Problem as problem:
            reply = _refusal(problem.status, problem.sentence, problem.headers)
        except Gone:
            self._count(endpoint.name, request, 499, began)  # nginx's number for it; nobody is there to be told
            return
        except Exception:  # noqa: BLE001  # a fault of ours, which ends nothing but this request
            _log.exception("a request failed")
            reply = _refusal(500, "the server failed to answer this request", [])
        try:
            await _send(reply, request, send, last=self._endpoints.draining or request.last)
        finally:
            self._count(endpoint.name, request, reply.status, began)

    def _admit(self, endpoint: Endpoint, request: Request) -> None:
        """Raise `Problem` unless the client may use an endpoint this way."""
        self._hosts.check(request.version, request.headers)
        if self._token is not None and not endpoint.open:
            scheme, _, token = request.header(b"authorization").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token_digest(token.strip()), self._token):
                raise Problem(401, "this server needs its token: send the header `Authorization: Bearer TOKEN`")
        if endpoint.methods and request.method not in endpoint.methods:
            allow = ", ".join(sorted(endpoint.methods))
            raise Problem(405, f"{request.method[:20]} is not for this path: use {allow}", allow=allow)

    def _count(self, endpoint: str, request: Request, status: int, began: float) -> None:
        seconds = time.perf_counter() - began
        metrics = self._endpoints.metrics
        metrics.requests.labels(endpoint, str(status)).inc()
        metrics.seconds.labels(endpoint, str(status)).observe(seconds)
        if self._log is not None:
            record = {
                "time": timestamp(),
                "client": request.client,
                "method": request.method,
                "path": request.path,
                "status": status,
                "ms": round(1000 * seconds, 3),
                **request.notes,
            }
            self._log(json.dumps(record))


def _refusal(status: int, sentence: str, headers: list[tuple[bytes, bytes]]) -> Reply:
    """Return an error as JSON."""
    return Reply(json.dumps({"error": sentence}, ensure_ascii=False).encode(), status=status, headers=tuple(headers))


async def _send(reply: Reply, request: Request, send: Send, *, last: bool) -> None:
    """Send a reply; if it is the connection's last, or the client is still sending, end the connection after it."""
    body, headers = reply.body, [*_ALWAYS, *reply.headers, (b"content-type", reply.content_type.encode())]
    if len(body) >= _WORTH_PACKING and (encoding := accepted_encoding(request.header(b"accept-encoding"))):
        body = pack(body, encoding)
        headers += [(b"content-encoding", encoding.encode()), (b"vary", b"Accept-Encoding")]
    headers.append((b"content-length", str(len(body)).encode()))
    unread = request.unread
    if unread or last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread})
    if unread:
        # Closed with bytes unread, a connection is reset, and the client may never see the answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while request.unread:
                    await request.receive()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
