"""What the tests of S3 share; the account itself is a fixture."""

from typing import Any
from urllib.request import Request, urlopen

Client = Any
"""boto3 makes its classes when it runs."""


def ask(url: str, body: bytes = b"") -> None:
    """Send a command to moto itself."""
    with urlopen(Request(url, data=body, headers={"Content-Type": "text/plain"})) as answer:  # noqa: S310  # loopback
        assert answer.status == 200
