"""Keep freed memory in the process, so that the C library does not return it to the kernel after every layer."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell glibc's malloc never to use `mmap` and never to trim its heap; return whether it agreed.

    PyTorch allocates every activation anew. By default glibc maps and unmaps each large one, and the kernel clears
    its pages again and again: on two cores this takes a quarter of a training step's time. The setting is for the
    whole process, so commands call this and library code does not. Elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
