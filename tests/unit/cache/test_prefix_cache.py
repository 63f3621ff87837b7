"""Hash chains: what may share a block and what may not."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cache.continuations import Continuations
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
    root = root_hash("t")
    contents = [[i, i] for i in range(4)]
    names = [block_hash(root, content) for content in contents]
    for index in (0, 1, 3):
        assert cache.insert(index + 10, root, contents[index])
    assert cache.lookup(names) == [10, 11]
    assert cache.lookup(names[1:]) == [11]
    assert cache.lookup([]) == []


def test_the_first_block_with_a_content_keeps_it() -> None:
    cache = PrefixCache()
    assert cache.insert(1, b"root", [7])
    assert not cache.insert(2, b"root", [7])
    assert cache.insert(1, b"root", [7])
    assert 1 in cache
    assert 2 not in cache
    cache.forget([1, 2, 3])
    assert len(cache) == 0
    assert cache.lookup([block_hash(b"root", [7])]) == []
    assert cache.find_part(b"root", [7]) is None


def test_a_block_that_holds_more_now_is_found_by_that_only() -> None:
    cache = PrefixCache()
    assert cache.insert(1, b"root", [7, 8])
    assert cache.insert(1, b"root", [7, 8, 9])
    assert len(cache) == 1
    assert cache.lookup([block_hash(b"root", [7, 8])]) == []
    assert cache.lookup([block_hash(b"root", [7, 8, 9])]) == [1]
    assert cache.find_part(b"root", [7, 8, 9, 10]) == (1, 3)


@given(
    st.dictionaries(st.integers(0, 20), st.lists(st.integers(0, 3) | st.just(70_000), max_size=5)),
    st.sets(st.integers(0, 20)),
    st.lists(st.integers(0, 3) | st.just(70_000), max_size=6),
)
def test_the_block_that_begins_most_alike_is_found(
    contents: dict[int, list[int]], dropped: set[int], wanted: list[int]
) -> None:
    """Beside a search through all blocks."""

    def num_equal(content: list[int]) -> int:
        pairs = zip(content, wanted, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    blocks = Continuations()
    for block_id, content in contents.items():
        blocks.put(b"other", [3, 3, 3], block_id)
        blocks.put(b"parent", content, block_id)
    for block_id in dropped:
        blocks.drop(block_id)
    left = {name: content for name, content in contents.items() if name not in dropped}
    most = max(map(num_equal, left.values()), default=0)
    found = blocks.find(b"parent", wanted)
    assert (found.num_tokens if found else 0) == most
    if found:
        assert num_equal(left[found.block_id]) == most
    assert blocks.find(b"other", [3]) is None
