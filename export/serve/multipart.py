"""The file of a form (RFC 7578), as browsers and `curl -F` send it."""

from email.message import Message
from email.parser import HeaderParser

from export.serve.problem import Problem

__all__ = ["file_of_form", "is_form"]

_LONGEST_BOUNDARY = 70  # RFC 2046, 5.1.1
_LONGEST_HEAD = 4096  # bytes of a part's headers, which take the standard library time as the square of their length
_MOST_PARTS = 16


def is_form(content_type: str) -> bool:
    """Say whether a body of this `Content-Type` is a form."""
    return _typed(content_type).get_content_type() == "multipart/form-data"


def file_of_form(body: bytes, content_type: str) -> bytes:
    """Return the content of the only file of a form; other fields are passed over.

    Args:
        body: of the request.
        content_type: its header, which has the boundary.

    Raises:
        Problem: 400 if it is no form, has no file or several, more than 16 parts, or a part with headers over 4 KiB.
    """
    boundary = _typed(content_type).get_boundary("")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise Problem(400, "the form's Content-Type has no boundary")
    fence = b"--" + boundary.encode()
    # The first fence may stand at the very beginning; all others follow a line's end, which is theirs.
    first, *parts = (b"\r\n" + body).split(b"\r\n" + fence, _MOST_PARTS + 2)
    del first  # a preamble, which nobody reads
    if len(parts) > _MOST_PARTS + 1:  # the last is what follows the form
        raise Problem(400, f"the form has more than {_MOST_PARTS} parts: send one picture")
    if not parts or not parts[-1].startswith(b"--"):
        raise Problem(400, "the form is cut off: its last boundary is missing")
    files = []
    for part in parts[:-1]:
        padding, newline, rest = part.partition(b"\r\n")
        head, blank, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if padding.strip(b" \t") or not newline or not blank:
            raise Problem(400, "a part of the form has no headers")
        if len(head) > _LONGEST_HEAD:
            raise Problem(400, f"a part of the form has headers of more than {_LONGEST_HEAD:,} bytes")
        headers = HeaderParser().parsestr(head.decode("utf-8", "replace").removeprefix("\r\n"))
        if headers.get_content_disposition() != "form-data":
            raise Problem(400, "a part of the form is not form-data")
        if headers.get_param("filename", header="content-disposition") is not None:
            files.append(content)
    if len(files) != 1:
        raise Problem(400, f"the form has {len(files) or 'no'} files: send one picture")
    return files[0]


def _typed(content_type: str) -> Message:
    """Return headers with a content type, which the standard library can take apart."""
    message = Message()
    message["content-type"] = "".join(c for c in content_type if c.isprintable())
    return message
