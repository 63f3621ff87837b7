"""Random use of a block pool against a plain model of it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.cache.block_pool import BlockPool


class BlockPoolMachine(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(1, 11))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.held: list[list[int]] = []
        self.cached: set[int] = set()
        self.freed: list[int] = []  # cached and free, oldest first

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.pool.num_free_blocks))
        num_empty = self.pool.num_free_blocks - len(self.freed)
        block_ids = self.pool.allocate(count)
        assert not set(block_ids[:num_empty]) & set(self.freed)
        reclaimed = block_ids[num_empty:]
        assert reclaimed == self.freed[: len(reclaimed)]
        del self.freed[: len(reclaimed)]
        self.cached -= set(block_ids)
        self.held.append(block_ids)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        for block_id in data.draw(st.sampled_from(self.held)):
            self.pool.mark_cached(block_id)
            self.cached.add(block_id)

    @precondition(lambda self: self.freed or self.held)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        known = sorted({*self.freed, *(b for table in self.held for b in table)})
        if not known:
            return
        block_ids = data.draw(st.lists(st.sampled_from(known), unique=True))
        self.pool.share(block_ids)
        self.freed = [block_id for block_id in self.freed if block_id not in block_ids]
        self.held.append(block_ids)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        table = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.free(table)
        still_held = {block_id for other in self.held for block_id in other}
        left = [block_id for block_id in reversed(table) if block_id not in still_held]
        self.freed += [block_id for block_id in left if block_id in self.cached]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_integrity()
        held = [block_id for table in self.held for block_id in table]
        assert self.pool.num_used_blocks == len(set(held))
        for block_id in range(self.pool.num_blocks):
            assert self.pool.num_users(block_id) == held.count(block_id)


BlockPoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestBlockPoolMachine = BlockPoolMachine.TestCase
