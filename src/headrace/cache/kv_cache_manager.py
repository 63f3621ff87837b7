"""What the scheduler asks of the KV cache: lookup, allocate, register, free, usage.

Owns the block pool, the prefix cache and every block table's content. In: token ids and numbers of
tokens. Out: block ids. A block is announced (claimed) while it is being computed and findable
(registered) once it is. Full blocks are shared; of others, and of those that go on differently, the
beginning is copied. Knows nothing of requests, steps or arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cache.block_pool import BlockPool
from headrace.cache.block_table import BlockTable
from headrace.cache.continuations import PartialBlock
from headrace.cache.prefix_cache import PrefixCache, block_hash, root_hash


class KVCacheManager:
    """Blocks for sequences, shared where their beginnings are equal. Units: `block_size` tokens."""

    def __init__(self, num_blocks: int, block_size: int, has_prefix_cache: bool = True) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; allowed: 1 or more tokens.")
        self.block_size = block_size
        self.has_prefix_cache = has_prefix_cache
        self.pool = BlockPool(num_blocks)
        self._prefixes = PrefixCache()
        # How many sequences are computing the block of this hash right now.
        self._claims: dict[bytes, int] = {}

    @property
    def max_num_tokens(self) -> int:
        """The longest sequence that fits alone."""
        return self.pool.num_blocks * self.block_size

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1. Cached blocks that nobody uses count as free."""
        return self.pool.num_used_blocks / self.pool.num_blocks

    @property
    def num_cached_blocks(self) -> int:
        return len(self._prefixes)

    def new_table(self, tenant: str, cache_salt: str = "", adapter: str = "") -> BlockTable:
        """Make the empty table of a sequence that shares within this tenant and salt only.

        `adapter` names what changes the model: equal tokens have other keys and values with it.
        """
        return BlockTable(root_hash(tenant, cache_salt, adapter))

    def lookup(self, table: BlockTable, token_ids: Sequence[int]) -> list[int]:
        """Find the blocks of the longest cached beginning, always leaving one token to compute.

        The last token's logits are wanted, and logits are not cached.
        Mutates: the table's hash chain, not its blocks.
        """
        if not self.has_prefix_cache:
            return []
        num_blocks = (len(token_ids) - 1) // self.block_size
        self._extend_hashes(table, token_ids, num_blocks)
        if table.num_end_tokens != len(token_ids):
            end = token_ids[num_blocks * self.block_size :]
            table.end_hash = block_hash(_hash_before(table, num_blocks), end)
            table.num_end_tokens = len(token_ids)
        return self._prefixes.lookup(table.block_hashes[:num_blocks])

    def lookup_part(
        self, table: BlockTable, token_ids: Sequence[int], num_prefix_blocks: int
    ) -> PartialBlock | None:
        """Find a block that begins like the next one after those that `lookup` found.

        Again one token is left to compute. What is found may be copied; the block is another's.
        """
        start = num_prefix_blocks * self.block_size
        wanted = token_ids[start : min(start + self.block_size, len(token_ids) - 1)]
        if not self.has_prefix_cache or not wanted:
            return None
        return self._prefixes.find_part(_hash_before(table, num_prefix_blocks), wanted)

    def is_being_computed(self, table: BlockTable, num_prefix_blocks: int) -> bool:
        """Tell whether another sequence is computing what comes after this cached beginning: a full
        block, or all that is left."""
        if num_prefix_blocks == (table.num_end_tokens - 1) // self.block_size:
            return table.end_hash in self._claims
        is_known = num_prefix_blocks < len(table.block_hashes)
        return is_known and table.block_hashes[num_prefix_blocks] in self._claims

    def allocate(
        self,
        table: BlockTable,
        num_tokens: int,
        prefix: Sequence[int] = (),
        num_spare_blocks: int = 0,
    ) -> bool:
        """Make the table long enough for `num_tokens`; False, and no change, when it cannot be.

        `prefix` are blocks from `lookup` that an empty table starts with. `num_spare_blocks` must
        stay free afterwards.
        Mutates: table.
        """
        num_wanted = -(-num_tokens // self.block_size) - len(table.block_ids) - len(prefix)
        if num_wanted <= 0 and not prefix:
            return True
        num_available = self.pool.num_free_blocks - self.pool.num_free_among(prefix)
        if num_wanted + num_spare_blocks > num_available:
            return False
        if not table.block_ids:
            self._start(table, prefix)
        block_ids = self.pool.allocate(max(num_wanted, 0))
        self._prefixes.forget(block_ids)
        table.block_ids.extend(block_ids)
        return True

    def register(
        self, table: BlockTable, token_ids: Sequence[int], num_computed_tokens: int
    ) -> None:
        """Make the full blocks among the computed tokens findable, and the end that was announced.

        Mutates: table.
        """
        num_full = num_computed_tokens // self.block_size
        if self.has_prefix_cache and num_full > table.num_registered:
            self._extend_hashes(table, token_ids, num_full)
            for index in range(table.num_registered, num_full):
                if index < table.num_claimed:
                    self._release(table.block_hashes[index])
                self._insert(table, index, token_ids)
            table.num_registered = num_full
        if table.has_claimed_end and num_computed_tokens >= table.num_end_tokens:
            self._release(table.end_hash)
            table.has_claimed_end = False
            self.register_end(table, token_ids[: table.num_end_tokens])

    def register_end(self, table: BlockTable, computed_token_ids: Sequence[int]) -> None:
        """Make the last block of a computed beginning findable too, where it is not full.

        Others copy from it. Its sequence may go on in it: what it holds already stays.
        Mutates: table's hash chain.
        """
        index = len(computed_token_ids) // self.block_size
        is_full = index * self.block_size == len(computed_token_ids)
        if self.has_prefix_cache and table.block_ids and not is_full:
            self._extend_hashes(table, computed_token_ids, index)
            self._insert(table, index, computed_token_ids)

    def free(self, table: BlockTable) -> None:
        """Give all blocks back; cached ones stay findable until reclaimed. Mutates: table."""
        for name in self._claimed(table):
            self._release(name)
        self.pool.free(table.block_ids)
        table.block_ids.clear()
        table.num_registered = table.num_claimed = 0
        table.has_claimed_end = False

    def forget_prefixes(self) -> None:
        """Compute everything anew from now on. Raises: RuntimeError while a block is used."""
        self.pool.forget_cached()
        self._prefixes.clear()

    def check_integrity(self, tables: Sequence[BlockTable]) -> None:
        """Prove that pool, prefix cache and the live tables agree. Expensive; for tests.

        Raises: RuntimeError naming what differs.
        """
        self.pool.check_integrity()
        users = [0] * self.pool.num_blocks
        claims: dict[bytes, int] = {}
        for table in tables:
            for block_id in table.block_ids:
                users[block_id] += 1
            for name in self._claimed(table):
                claims[name] = claims.get(name, 0) + 1
        if claims != self._claims:
            raise RuntimeError(f"{len(self._claims)} claims kept, {len(claims)} held by tables.")
        for block_id, num_users in enumerate(users):
            if num_users != self.pool.num_users(block_id):
                raise RuntimeError(
                    f"Block {block_id} has {self.pool.num_users(block_id)} users, "
                    f"{num_users} tables hold it."
                )
            if self.pool.is_cached(block_id) != (block_id in self._prefixes):
                raise RuntimeError(f"Block {block_id} is cached in one place only.")

    def _start(self, table: BlockTable, prefix: Sequence[int]) -> None:
        self.pool.share(prefix)
        table.block_ids.extend(prefix)
        table.num_registered = len(prefix)
        table.num_claimed = max(len(table.block_hashes), len(prefix))
        table.has_claimed_end = bool(table.end_hash)
        for name in self._claimed(table):
            self._claims[name] = self._claims.get(name, 0) + 1

    def _claimed(self, table: BlockTable) -> list[bytes]:
        claimed = table.block_hashes[table.num_registered : table.num_claimed]
        return [*claimed, table.end_hash] if table.has_claimed_end else claimed

    def _insert(self, table: BlockTable, index: int, token_ids: Sequence[int]) -> None:
        """Make a block findable by those of the tokens that are in it."""
        start, block_id = index * self.block_size, table.block_ids[index]
        content = token_ids[start : start + self.block_size]
        if self._prefixes.insert(block_id, _hash_before(table, index), content):
            self.pool.mark_cached(block_id)

    def _release(self, name: bytes) -> None:
        self._claims[name] -= 1
        if not self._claims[name]:
            del self._claims[name]

    def _extend_hashes(self, table: BlockTable, token_ids: Sequence[int], num_blocks: int) -> None:
        for index in range(len(table.block_hashes), num_blocks):
            start = index * self.block_size
            content = token_ids[start : start + self.block_size]
            table.block_hashes.append(block_hash(_hash_before(table, index), content))


def _hash_before(table: BlockTable, index: int) -> bytes:
    """Name what is before a block."""
    return table.block_hashes[index - 1] if index else table.root
