"""Hash chains: what may share a block and what may not."""

from __future__ import annotations

import pytest

from headrace.cache.prefix_cache import PrefixCache, block_hash, root_hash


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("a", ""), ("b", "")),
        (("a", "x"), ("a", "y")),
        (("a", "bc"), ("ab", "c")),
        (("a", ""), ("", "a")),
        (("default", ""), ("", "default")),
    ],
)
def test_tenants_and_salts_never_meet(left: tuple[str, str], right: tuple[str, str]) -> None:
    assert root_hash(*left) != root_hash(*right)
    assert block_hash(root_hash(*left), [1, 2]) != block_hash(root_hash(*right), [1, 2])


def test_a_hash_covers_everything_before_it() -> None:
    root = root_hash("t")
    assert block_hash(root, [1, 2]) == block_hash(root_hash("t"), (1, 2))
    assert block_hash(block_hash(root, [1, 2]), [3, 4]) != block_hash(root, [3, 4])
    assert block_hash(root, [1, 23]) != block_hash(root, [12, 3])
    assert block_hash(root, [1, 0]) != block_hash(root, [1])
    assert len(block_hash(root, [1])) == 32


def test_odd_texts_are_salts_too() -> None:
    assert root_hash("\ud800") != root_hash("?")


def test_lookup_stops_at_the_first_gap() -> None:
    cache = PrefixCache()
    names = [bytes([i]) * 32 for i in range(4)]
    for index in (0, 1, 3):
        assert cache.insert(names[index], index + 10)
    assert cache.lookup(names) == [10, 11]
    assert cache.lookup(names[1:]) == [11]
    assert cache.lookup([]) == []


def test_the_first_block_with_a_content_keeps_it() -> None:
    cache = PrefixCache()
    assert cache.insert(b"x", 1)
    assert not cache.insert(b"x", 2)
    assert cache.insert(b"x", 1)
    assert 1 in cache
    assert 2 not in cache
    cache.forget([1, 2, 3])
    assert len(cache) == 0
    assert cache.lookup([b"x"]) == []
