"""Redirects, followed one by one: each is looked at before anything is sent to where it leads."""

from typing import TYPE_CHECKING, Any

from zoo.errors import SourceError

if TYPE_CHECKING:
    from httpx2 import Client, Request, Response

__all__ = ["follow"]

_REDIRECTS = 10


def follow(client: "Client", request: "Request", what: str, **options: Any) -> "Response":  # noqa: ANN401  # httpx2's
    """Send a request, go after redirects, and return the answer, with the redirects as its `history`.

    The answer's body is still to come, and whoever gets it closes it. The bodies of redirects, which may be of any
    size, are not read. Credentials in a header go to the first server only.

    Args:
        client: of httpx2 (or httpx, which older Hub clients bring).
        request: the first one.
        what: the file that is asked for, to be named in errors.
        options: of the first `client.send`, such as `auth`.

    Raises:
        SourceError: a redirect from https to a connection that is not encrypted, wherever it leads after that; or too
            many.
    """
    history: list[Response] = []
    while True:
        response = client.send(request, stream=True, follow_redirects=False, **options)
        response.history = list(history)
        if response.next_request is None:
            return response
        response.close()
        # The client has dropped the credentials in the header unless it is the same server.
        request, options = response.next_request, {"auth": None}
        if response.url.scheme == "https" and request.url.scheme != "https":
            raise SourceError(f"{what} is redirected from https to {request.url.scheme}: refused")
        history.append(response)
        if len(history) == _REDIRECTS:
            raise SourceError(f"{what} is redirected more than {_REDIRECTS} times")
