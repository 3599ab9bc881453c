"""Keep freed memory in the process, so that the C library does not return it to the kernel after every layer."""

import ctypes
import os
import sys

__all__ = ["allocator_setting", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_ENVIRONMENT = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
"""Variables that begin so choose the C library's allocator, or set it."""

_made: set[str] = set()
"""What was set in this process, in words."""


def keep_freed_memory() -> bool:
    """Tell glibc's malloc never to use `mmap` and never to trim its heap; return whether it agreed.

    PyTorch allocates every activation anew. By default glibc maps and unmaps each large one, and the kernel clears
    its pages again and again: on two cores this takes a quarter of a training step's time. The setting is for the
    whole process, so commands call this and library code does not. Elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    agreed = bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
    if agreed:
        _made.add("keeps freed memory")
    return agreed


def allocator_setting() -> str:
    """Return how memory is allocated, in words, as far as it was set here or by the environment; empty by default.

    The same work takes another time where it differs.
    """
    return ", ".join([*_made, *(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_ENVIRONMENT))])
