"""Files of a bucket, through fsspec: `s3://`, and what else there is a package for (`memory://` in tests).

Nothing is cached: what another process has written is there at the next request. A request is made once, with time
limits; `zoo.sources.ranged` does the trying again.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from zoo.errors import MenagerieError, NotFoundError, SourceError, UsageError
from zoo.sources.patience import Patience, TransientError
from zoo.sources.ranges import ABSENT, Stream, line, shown
from zoo.sources.transport import ConflictError

__all__ = ["Bucket"]

_PART = 8 << 20
"""Bytes of a part of an upload; S3 takes no less than 5 MiB and no more than 10,000 parts."""

_PARTS = 10_000

_CHUNK = 1 << 20

_NETWORK = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteReadError", "TimeoutError"}
"""What botocore, aiohttp and Python call the class of an answer that does not come, or not to its end."""

_UNREACHABLE = {"ConnectionError"}
"""What they call the class of a connection that is not made."""

_BUSY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_CHANGED = {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
"""What S3 answers to a write over a version that is no longer there, or is just being replaced."""


class Bucket:
    """A folder of a bucket as a `zoo.sources.ranges.Store`.

    S3's credentials, region and endpoint are those of the usual AWS environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`,
    `~/.aws`, roles); requests are anonymous if there are no credentials.

    Raises:
        UsageError: fsspec does not know the protocol, or its package is not installed.
        SourceError: the credentials that were found cannot be used.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        from fsspec.core import url_to_fs  # noqa: PLC0415  # only those who have such a source need it

        self.label = shown(url)
        self._protocol = url.partition("://")[0].lower()
        self._reached = False
        with self._in_one_line(""):
            options = _s3_options(patience) if self._protocol == "s3" else {}
            try:
                self._files, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **options)
            except (ImportError, ValueError) as error:  # both say what is missing or not known
                raise UsageError(f"source {self.label!r}: {line(error)}") from error
        if self._protocol == "s3":
            self._files.retries = 1
        self._root = root.rstrip("/")
        if self._protocol == "s3" and not self._root:
            raise UsageError(f"source {self.label!r} names no bucket")
        self._reached = False

    def size(self, path: str) -> int:
        """Return the length of a file."""
        with self._in_one_line(path):
            info = self._files.info(f"{self._root}/{path}", **({"refresh": True} if self._protocol == "s3" else {}))
        if info["type"] != "file":
            raise NotFoundError(f"{self.label} has no {path}")
        return int(info["size"])

    @contextmanager
    def open(self, path: str, start: int, stop: int | None) -> Iterator[Stream]:
        """Open a range, which arrives in one piece, or all of a file; see `Store`."""
        place = f"{self._root}/{path}"
        with ExitStack() as stack:
            with self._in_one_line(path):
                if stop is not None:
                    stream = Stream(iter([self._files.cat_file(place, start=start, end=stop)]))
                elif self._protocol == "s3":
                    stream = self._s3_stream(path, place, stack)
                else:
                    stream = Stream(self._pieces(path, stack.enter_context(self._files.open(place, "rb")).read))
            yield stream

    def _s3_stream(self, path: str, place: str, stack: ExitStack) -> Stream:
        """Open all of a file; fsspec's own ways ask for its length first, and do not tell the ETag."""
        from fsspec.asyn import sync  # noqa: PLC0415

        bucket, key, _ = self._files.split_path(place)
        answer = self._files.call_s3("get_object", Bucket=bucket, Key=key)
        stack.callback(self._files.loop.call_soon_threadsafe, answer["Body"].close)
        read = partial(sync, self._files.loop, answer["Body"].read)
        return Stream(self._pieces(path, read), total=answer["ContentLength"], version=answer.get("ETag"))

    def _pieces(self, path: str, read: Callable[[int], bytes]) -> Iterator[bytes]:
        with self._in_one_line(path):
            while piece := read(_CHUNK):
                yield piece

    def write(self, path: str, content: bytes | Path, over: str | None = None) -> None:
        """Write a file; a local one goes up in parts, of which a few are in memory at a time; see `Store`."""
        target, options = f"{self._root}/{path}", dict[str, Any]()
        if over == ABSENT:
            options["mode"] = "create"
        elif over is not None:
            options["IfMatch"] = over
        if self._protocol == "s3" and isinstance(content, Path):
            size = content.stat().st_size
            # s3fs hands IfMatch on with a file that goes up in one piece, but not with the last of many.
            part = max(_PART, size if "IfMatch" in options else -(-size // _PARTS))
            options |= {"chunksize": part, "max_concurrency": 4}
        try:
            with self._in_one_line(""):
                if isinstance(content, bytes):
                    self._files.pipe_file(target, content, **options)
                else:
                    self._files.put_file(str(content), target, **options)
        except MenagerieError as error:
            changed = isinstance(error.__cause__, FileExistsError) or _status(error.__cause__) in _CHANGED
            if over is None or not changed or (over == ABSENT and _status(error.__cause__) == HTTPStatus.NOT_FOUND):
                raise
            raise ConflictError(f"{self.label}: {path} has changed since it was read, and was not replaced") from error

    @contextmanager
    def _in_one_line(self, path: str) -> Iterator[None]:
        """Turn whatever fsspec and the packages below it raise into the errors of a `Store`."""
        try:
            yield
            self._reached = True
        except MenagerieError:
            raise
        except Exception as error:
            raise self._meaning(error, path) from error

    def _meaning(self, error: Exception, path: str) -> Exception:
        """Return what an error of fsspec means; `path` is the file that was to be read, if one was."""
        status = _status(error)
        text = line(error)
        kinds = {c.__name__ for c in type(error).__mro__}
        self._reached |= status is not None
        if isinstance(error, FileNotFoundError) or status == HTTPStatus.NOT_FOUND:
            what = f"has no {path}" if path else f"cannot be written to: {text}"
            return NotFoundError(f"{self.label} {what}") if path else SourceError(f"{self.label} {what}")
        if isinstance(error, PermissionError) or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            named = " (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)" if self._protocol == "s3" else ""
            return SourceError(f"{self.label}: the server refuses ({text}): it may want other credentials{named}")
        if kinds & _UNREACHABLE and not self._reached:
            return SourceError(f"{self.label} cannot be reached: {text}")
        if status in _BUSY or kinds & (_NETWORK | _UNREACHABLE):
            return TransientError(text)
        return SourceError(f"{self.label}: {text}")


def _s3_options(patience: Patience) -> dict[str, Any]:
    """Return how s3fs shall connect; no retries of its own, which would multiply with ours.

    Raises:
        UsageError: s3fs is not installed.
    """
    try:
        import s3fs  # noqa: F401, PLC0415  # an extra
        from botocore.session import Session  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("s3:// sources need s3fs: pip install 'menagerie[s3]'") from error
    return {
        "anon": Session().get_credentials() is None,
        "config_kwargs": {
            "connect_timeout": patience.connect,
            "read_timeout": patience.idle,
            "retries": {"max_attempts": 0},
        },
    }


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status that botocore put into an error or its cause, if a server answered at all."""
    response = getattr(error, "response", None) or getattr(getattr(error, "__cause__", None), "response", None)
    if not isinstance(response, dict):
        return None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None
