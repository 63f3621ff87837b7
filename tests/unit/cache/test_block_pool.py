"""Which block is handed out next, asserted exactly on a pool of 11."""

from __future__ import annotations

import pytest

from headrace.cache.block_pool import BlockPool


def make_cached(pool: BlockPool, num_blocks: int) -> list[int]:
    block_ids = pool.allocate(num_blocks)
    for block_id in block_ids:
        pool.mark_cached(block_id)
    return block_ids


def test_empty_blocks_go_first_then_the_least_recently_used() -> None:
    pool = BlockPool(11)
    first, second = make_cached(pool, 3), make_cached(pool, 3)
    assert (first, second) == ([0, 1, 2], [3, 4, 5])
    pool.free(first)
    pool.free(second)
    assert pool.num_free_blocks == 11
    # five never used, then the sequence freed earlier from its end, then the other one
    assert pool.allocate(11) == [6, 7, 8, 9, 10, 2, 1, 0, 5, 4, 3]
    pool.check_integrity()


def test_a_shared_block_moves_to_the_young_end() -> None:
    pool = BlockPool(4)
    block_ids = make_cached(pool, 4)
    pool.free(block_ids)
    pool.share([3])
    assert pool.num_free_blocks == 3
    pool.free([3])
    assert pool.allocate(4) == [2, 1, 0, 3]


def test_a_block_is_free_when_its_last_user_leaves() -> None:
    pool = BlockPool(2)
    (block_id,) = make_cached(pool, 1)
    pool.share([block_id])
    pool.free([block_id])
    assert pool.num_used_blocks == 1
    assert pool.allocate(1) == [1]
    pool.free([block_id])
    assert pool.allocate(1) == [block_id]
    assert not pool.is_cached(block_id)


def test_uncached_blocks_are_reused_last_in_first_out() -> None:
    pool = BlockPool(5)
    block_ids = pool.allocate(5)
    pool.free(block_ids)
    assert pool.allocate(2) == [0, 1]


def test_misuse_is_refused() -> None:
    pool = BlockPool(2)
    with pytest.raises(RuntimeError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    with pytest.raises(RuntimeError, match="freed more often"):
        pool.free([0])
    with pytest.raises(ValueError, match="at least 1 block"):
        BlockPool(0)
    with pytest.raises(RuntimeError, match="is free"):
        BlockPool(1).mark_cached(0)


def test_integrity_check_sees_damage() -> None:
    pool = BlockPool(3)
    pool.check_integrity()
    pool._num_users[1] = 1
    with pytest.raises(RuntimeError, match=r"\[1\]"):
        pool.check_integrity()
    pool = BlockPool(3)
    pool._empty.append(2)
    with pytest.raises(RuntimeError, match="twice"):
        pool.check_integrity()
