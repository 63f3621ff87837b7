"""Prefix hits, claims, all-or-nothing allocation and eviction through the manager."""

from __future__ import annotations

import pytest

from headrace.cache.block_table import BlockTable
from headrace.cache.kv_cache_manager import KVCacheManager

BLOCK = 4


def compute(manager: KVCacheManager, token_ids: list[int], tenant: str = "t") -> BlockTable:
    """Run a sequence the way the scheduler does: look up, allocate, register."""
    table = manager.new_table(tenant)
    prefix = manager.lookup(table, token_ids)
    assert manager.allocate(table, len(token_ids), prefix)
    manager.register(table, token_ids, len(token_ids))
    return table


def test_a_hit_always_leaves_one_token_to_compute() -> None:
    manager = KVCacheManager(11, BLOCK)
    compute(manager, list(range(8)))
    assert manager.lookup(manager.new_table("t"), list(range(8))) == [0]
    assert manager.lookup(manager.new_table("t"), list(range(9))) == [0, 1]
    assert manager.lookup(manager.new_table("t"), [0]) == []


def test_other_tenants_and_salts_miss() -> None:
    manager = KVCacheManager(11, BLOCK)
    compute(manager, list(range(8)))
    assert manager.lookup(manager.new_table("other"), list(range(9))) == []
    assert manager.lookup(manager.new_table("t", "salt"), list(range(9))) == []


def test_a_difference_ends_the_hit() -> None:
    manager = KVCacheManager(11, BLOCK)
    compute(manager, list(range(12)))
    other = [*range(4), 99, *range(5, 13)]
    assert manager.lookup(manager.new_table("t"), other) == [0]


def test_sharing_counts_users_and_takes_free_blocks_back() -> None:
    manager = KVCacheManager(11, BLOCK)
    first = compute(manager, list(range(8)))
    second = compute(manager, list(range(9)))
    assert second.block_ids == [0, 1, 2]
    assert manager.pool.num_users(0) == 2
    manager.check_integrity([first, second])
    manager.free(first)
    manager.free(second)
    assert manager.usage == 0.0
    third = compute(manager, list(range(9)))
    assert third.block_ids[:2] == [0, 1]
    assert manager.usage == pytest.approx(3 / 11)
    manager.check_integrity([third])


def test_eviction_takes_the_end_of_the_oldest_sequence_first() -> None:
    manager = KVCacheManager(11, BLOCK)
    old = compute(manager, list(range(16)))  # blocks 0 1 2 3
    young = compute(manager, list(range(100, 116)))  # blocks 4 5 6 7
    manager.free(old)
    manager.free(young)
    other = compute(manager, list(range(200, 220)))  # 3 empty blocks, then 3 and 2 of the old one
    assert other.block_ids == [8, 9, 10, 3, 2]
    assert manager.lookup(manager.new_table("t"), list(range(17))) == [0, 1]
    assert manager.lookup(manager.new_table("t"), list(range(100, 117))) == [4, 5, 6, 7]
    manager.check_integrity([other])


def test_allocation_is_all_or_nothing() -> None:
    manager = KVCacheManager(3, BLOCK)
    table = compute(manager, list(range(8)))
    before = list(table.block_ids)
    assert not manager.allocate(table, 13)
    assert table.block_ids == before
    assert manager.allocate(table, 12)
    assert manager.allocate(table, 12)
    assert len(table.block_ids) == 3


def test_a_hit_on_free_blocks_is_not_counted_twice() -> None:
    """Blocks of the hit are free, but taking them back must not also hand them out."""
    manager = KVCacheManager(3, BLOCK)
    manager.free(compute(manager, list(range(8))))
    table = manager.new_table("t")
    token_ids = list(range(16))
    prefix = manager.lookup(table, token_ids)
    assert prefix == [0, 1]
    assert not manager.allocate(table, 16, prefix)
    assert manager.allocate(table, 12, prefix)
    assert table.block_ids == [0, 1, 2]
    manager.check_integrity([table])


def test_spare_blocks_are_kept() -> None:
    manager = KVCacheManager(4, BLOCK)
    table = manager.new_table("t")
    assert not manager.allocate(table, 13, (), num_spare_blocks=1)
    assert manager.allocate(table, 12, (), num_spare_blocks=1)


def test_claims_live_until_computed_or_freed() -> None:
    manager = KVCacheManager(11, BLOCK)
    token_ids = list(range(13))
    first, second = manager.new_table("t"), manager.new_table("t")
    assert manager.allocate(first, 13, manager.lookup(first, token_ids))
    assert manager.lookup(second, token_ids) == []
    assert manager.is_being_computed(second, 0)
    manager.register(first, token_ids, 5)
    assert manager.lookup(second, token_ids) == [0]
    assert manager.is_being_computed(second, 1)
    manager.check_integrity([first, second])
    manager.free(first)
    assert not manager.is_being_computed(second, 1)
    manager.check_integrity([first, second])


def test_equal_content_computed_twice_is_kept_once() -> None:
    manager = KVCacheManager(11, BLOCK)
    tables = [manager.new_table("t") for _ in range(2)]
    for table in tables:
        assert manager.allocate(table, 5)
    for table in tables:
        manager.register(table, list(range(5)), 5)
    assert manager.num_cached_blocks == 1
    for table in tables:
        manager.free(table)
    manager.check_integrity(tables)


def test_without_prefix_cache_nothing_is_found() -> None:
    manager = KVCacheManager(11, BLOCK, has_prefix_cache=False)
    table = compute(manager, list(range(9)))
    assert manager.lookup(manager.new_table("t"), list(range(9))) == []
    assert manager.num_cached_blocks == 0
    manager.free(table)
    manager.check_integrity([table])


def test_integrity_check_sees_damage() -> None:
    manager = KVCacheManager(5, BLOCK)
    table = compute(manager, list(range(9)))
    with pytest.raises(RuntimeError, match="0 tables hold it"):
        manager.check_integrity([])
    manager._prefixes.forget([0])
    with pytest.raises(RuntimeError, match="one place only"):
        manager.check_integrity([table])
