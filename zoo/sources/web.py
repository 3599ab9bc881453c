"""Files of a static web server, `https://` or `http://`, by ranges where it knows them.

This is httpx2, which huggingface_hub is built on, rather than fsspec's HTTP: that one does not look whether a range was
answered with the range or with all of the file, hands out a body only when all of it is in memory, and follows
redirects from https to http. httpx2 also brings the system's certificates and what the environment says of certificates
and proxies (`SSL_CERT_FILE`, `HTTPS_PROXY`).
"""

import netrc
import os
import re
import ssl
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import httpx2

from zoo.errors import CorruptError, NotFoundError, SourceError, UsageError
from zoo.sources.patience import Patience, TransientError
from zoo.sources.ranges import Stream, line, shown
from zoo.sources.redirects import follow

__all__ = ["Web"]

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_MISSING = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


class Web:
    """A folder of a web server as a `zoo.sources.ranges.Store`.

    Credentials are those of the URL (`https://USER:PASSWORD@HOST/`), else of `~/.netrc`; they go to this host only. A
    query of the URL, such as a signature, is sent with every request.

    Raises:
        UsageError: not a URL of a web server, or certificates or proxies in the environment that cannot be used.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        try:
            root = httpx2.URL(url).copy_with(fragment=None)
        except httpx2.InvalidURL as error:
            raise UsageError("a source is not a URL that can be used") from error
        self._auth = httpx2.BasicAuth(root.username, root.password) if root.userinfo else _netrc()
        self._root = root.copy_with(userinfo=b"")
        self.label = shown(url)
        if not root.host:
            raise UsageError(f"source {self.label!r} names no server")
        self._patience = patience
        self._reached = False
        try:
            self._client = httpx2.Client(
                headers={"Accept-Encoding": "identity", "User-Agent": "menagerie"},
                timeout=httpx2.Timeout(patience.idle, connect=patience.connect),
            )
        except (OSError, ValueError, ImportError) as error:  # of SSL_CERT_FILE, HTTPS_PROXY and the like
            raise UsageError(f"{self.label}: the environment's certificates or proxies: {line(error)}") from error
        weakref.finalize(self, self._client.close)

    def size(self, path: str) -> None:
        """Return None: the length comes with the content."""
        del path

    @contextmanager
    def open(self, path: str, start: int, stop: int | None) -> Iterator[Stream]:
        """Open a range; see `Store`."""
        # Files that are read as a whole change (an index): no proxy shall answer with an old one.
        headers = {"Cache-Control": "no-cache"} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        with self._in_one_line():
            response = self._get(path, headers)
            try:
                yield self._stream(response, path, None if stop is None else start)
            finally:
                response.close()

    def write(self, path: str, content: bytes | Path, over: str | None = None) -> None:
        """Refuse: a web server's files are written where it has them from."""
        del path, content, over
        raise UsageError(f"{self.label} can only be read: push to the folder or bucket behind it")

    def _get(self, path: str, headers: dict[str, str]) -> httpx2.Response:
        """Return an answer whose body is still to come, after redirects."""
        url = self._root.copy_with(path=f"{self._root.path.rstrip('/')}/{quote(path)}")
        request = self._client.build_request("GET", url, headers=headers)
        response = follow(self._client, request, f"{self.label}: {path}", auth=self._auth)
        self._reached = True
        return response

    def _stream(self, response: httpx2.Response, path: str, start: int | None) -> Stream:
        """Return the body of an answer; `start` is the first byte that was asked for, or None for all of them."""
        status = response.status_code
        where = f"{self.label}: {path}"
        if status in _MISSING:
            raise NotFoundError(f"{self.label} has no {path}")
        if status in _REFUSED:
            raise SourceError(
                f"{where}: the server refuses ({status}): it may want credentials, which belong into ~/.netrc "
                "or before the host (https://USER:PASSWORD@HOST/), or there may be no such file"
            )
        if status in _BUSY or response.is_server_error:
            raise TransientError(f"the server answers {status} {response.reason_phrase}".rstrip())
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise CorruptError(f"{where} ends before byte {start}, and should not")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise SourceError(f"{where}: the server sends it packed ({encoding}), though asked not to")
        if status == HTTPStatus.OK:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            marked = total is not None or "Transfer-Encoding" in response.headers
            return Stream(response.iter_raw(), whole=True, total=total, marked=marked)
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if status == HTTPStatus.PARTIAL_CONTENT and start is not None and found and int(found[1]) == start:
            return Stream(response.iter_raw(), total=None if found[2] == "*" else int(found[2]))
        raise SourceError(f"{where}: the server's answer ({status}) is not what was asked for")

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Turn the errors of httpx2 into those of a `Store`."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            untrusted = _certificate_error(error)
            if untrusted:
                raise SourceError(
                    f"{self.label}: its certificate is not to be trusted: {untrusted.verify_message} "
                    "(SSL_CERT_FILE may name the certificates that are)"
                ) from error
            what = f"no connection in {self._patience.connect:g} s" if isinstance(error, httpx2.ConnectTimeout) else ""
            if self._reached:
                raise TransientError(what or line(error)) from error
            raise SourceError(f"{self.label} cannot be reached: {what or line(error)}") from error
        except httpx2.TimeoutException as error:
            raise TransientError(f"nothing came for {self._patience.idle:g} s") from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            raise TransientError(line(error)) from error
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise SourceError(f"{self.label}: {line(error)}") from error


def _netrc() -> httpx2.Auth | None:
    """Return the credentials of `~/.netrc`, or of the file that `NETRC` names."""
    try:
        return httpx2.NetRCAuth(os.environ.get("NETRC"))
    except OSError:
        return None
    except netrc.NetrcParseError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}") from error


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a certificate that caused an error, if one did."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
