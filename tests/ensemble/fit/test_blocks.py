"""Blocks cover everything once, in order."""

import pytest

from ensemble.fit.blocks import CACHE_BYTES, cores, map_blocks


@pytest.mark.parametrize("items", [1, 2, 5, 64])
@pytest.mark.parametrize("item_bytes", [1, CACHE_BYTES // 3, CACHE_BYTES, 10 * CACHE_BYTES])
def test_every_item_is_in_one_block_and_results_keep_their_order(items: int, item_bytes: int) -> None:
    blocks = map_blocks(lambda some: list(range(some.start, some.stop)), items, item_bytes)
    assert [item for block in blocks for item in block] == list(range(items))
    assert max(len(block) for block in blocks) <= max(1, CACHE_BYTES // item_bytes)


def test_errors_come_out() -> None:
    with pytest.raises(ZeroDivisionError):
        map_blocks(lambda some: 1 // some.start, 10, CACHE_BYTES)


def test_there_is_a_core() -> None:
    assert cores() >= 1
