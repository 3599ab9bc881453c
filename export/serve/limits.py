"""What a server does not take: sizes, numbers, and waiting."""

from dataclasses import dataclass

__all__ = ["MEBIBYTE", "Limits"]

MEBIBYTE = 1 << 20

_PER_NUMBER = 16  # bytes of a number in JSON, on a line of its own with an indent
_AROUND = 65_536  # bytes of a request that are not its images
_BODIES = 16  # of the largest size, in memory at once


@dataclass(frozen=True)
class Limits:
    """Limits of a replica.

    Attributes:
        max_batch: images in a request, and in a batch.
        max_delay: seconds that a batch waits for requests that are arriving.
        max_queue: requests waiting at once, which have been read; more are told to come again.
        max_body: bytes of a body, also after unpacking.
        max_pixels: of a picture file.
        timeout: seconds that a request may wait for its answer once it has been read.
        read_timeout: seconds that a client may take to send a request.
        write_timeout: seconds that a client may take to read an answer.
        max_header: bytes of a request's line and headers.
        max_connections: that are open at once.
    """

    max_batch: int = 64
    max_delay: float = 0.002
    max_queue: int = 256
    max_body: int = 16 * MEBIBYTE
    max_pixels: int = 25_000_000
    timeout: float = 30.0
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    max_header: int = 16_384
    max_connections: int = 1024

    def tensor_body(self, image_bytes: int) -> int:
        """Return how many bytes a request to infer may have: JSON of the largest batch fits, and little else."""
        return min(self.max_body, self.max_batch * image_bytes * _PER_NUMBER + _AROUND)

    @property
    def bodies(self) -> int:
        """Bytes of the bodies that are in memory at once."""
        return _BODIES * self.max_body
