"""Long arrays in blocks that fit a core's cache, on all cores: numpy's loops let other threads run."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CACHE_BYTES", "cores", "map_blocks"]

CACHE_BYTES = 1 << 20
"""Bytes that a block's arrays may take: about what a core has of second-level cache."""

_T = TypeVar("_T")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_blocks(function: Callable[[slice], _T], items: int, item_bytes: int) -> list[_T]:
    """Call a function for each block of `range(items)`, and return its results in order.

    Args:
        function: takes the block as a slice. Calls run at the same time, so it must write to its own rows only.
        items: how many there are.
        item_bytes: what one takes while it is worked on.
    """
    size = max(1, CACHE_BYTES // max(1, item_bytes))
    blocks = [slice(first, min(first + size, items)) for first in range(0, items, size)]
    if len(blocks) == 1:
        return [function(blocks[0])]
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(function, blocks))
