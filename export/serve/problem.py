"""What is wrong with a request: a status, and one plain sentence that says what to do."""

__all__ = ["Problem"]


class Problem(Exception):  # noqa: N818  # a client's, not the program's
    """A request that is answered with an error.

    Args:
        status: of HTTP, 400 to 599.
        sentence: for people, without a full stop.
        retry_after: seconds after which the same request may succeed, if it may.
        allow: methods that the path knows, of a 405.

    Attributes:
        headers: that go with the answer.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None, allow: str = "") -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers: list[tuple[bytes, bytes]] = []
        if retry_after is not None:
            self.headers.append((b"retry-after", str(retry_after).encode()))
        if allow:
            self.headers.append((b"allow", allow.encode()))
        if status == 401:  # noqa: PLR2004
            self.headers.append((b"www-authenticate", b"Bearer"))
