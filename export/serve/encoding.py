"""Compressed bodies: gzip and deflate (zlib's format, as RFC 9110, 8.4.1.2 says), unpacked within a limit."""

import zlib

from export.serve.problem import Problem

__all__ = ["accepted_encoding", "pack", "unpack"]

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEVEL = 1  # probabilities hardly shrink further


def unpack(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body as it was before a client compressed it.

    Args:
        body: as it came.
        encoding: value of `Content-Encoding`.
        most: bytes that the result may have.

    Raises:
        Problem: 415 for an encoding that is none of ours, 413 if there is more, 400 if the bytes are damaged.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in _WINDOWS:
        raise Problem(415, f"Content-Encoding {encoding[:40]!r} is unknown: send gzip, deflate or none")
    machine = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = machine.decompress(body, most + 1)
    except zlib.error as error:
        raise Problem(400, f"the body is not {encoding}, as its Content-Encoding says") from error
    if len(content) > most:
        raise Problem(413, f"the body is larger than {most:,} bytes when it is unpacked")
    if not machine.eof or machine.unused_data:
        raise Problem(400, f"the body is not one whole {encoding} stream, as its Content-Encoding says")
    return content


def pack(body: bytes, encoding: str) -> bytes:
    """Return a body in an encoding that `accepted_encoding` named."""
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[encoding])
    return machine.compress(body) + machine.flush()


def accepted_encoding(header: str) -> str:
    """Return the encoding that an `Accept-Encoding` likes best: `gzip`, `deflate`, or nothing for none of them."""
    best, share = "", 0.0
    for item in header.lower().split(","):
        name, _, rest = item.partition(";")
        name = name.strip()
        if name not in {"gzip", "deflate"}:
            continue
        weight = rest.strip().removeprefix("q=").strip() if rest else "1"
        try:
            quality = float(weight)
        except ValueError:
            continue
        if quality > share:
            best, share = name, quality
    return best
