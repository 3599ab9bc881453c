"""Long arrays in blocks that fit a core's cache, on all cores: numpy's loops let other threads run."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CACHE_BYTES", "cores", "map_blocks"]

CACHE_BYTES = 1 << 20
"""Bytes that a block's arrays may take: about what a core has of second-level cache."""

_GROUPS = 4
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
    at_once = cores()
    if len(blocks) == 1 or at_once == 1:
        return [function(block) for block in blocks]
    # Handing over a block takes as long as a small one's work, so they go in groups; several a core, for balance.
    size = -(-len(blocks) // (_GROUPS * at_once))
    groups = [blocks[first : first + size] for first in range(0, len(blocks), size)]
    with ThreadPoolExecutor(at_once) as threads:
        done = threads.map(lambda group: [function(block) for block in group], groups)
        return [result for group in done for result in group]
