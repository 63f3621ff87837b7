"""Owns which block holds which content: a chain of hashes, each covering all tokens before it.

In: token ids, tenant and salt. Out: block ids. A hash is SHA-256 over parent hash and tokens, and
the chain starts from the tenant, so equal hashes mean equal content of the same tenant; nobody
can find or measure another tenant's prompts. A block that is not full has the hash of the tokens
it holds; it is found, as any other, by tokens that begin like its own. Knows nothing of users of a
block or of requests.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import sha256

from headrace.cache.continuations import Continuations, PartialBlock


def root_hash(tenant: str, cache_salt: str = "", adapter: str = "") -> bytes:
    """Start a chain that nobody but this tenant (with this salt and adapter) can share.

    Lengths come before the texts, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = sha256(b"headrace prefix 2")
    for text in (tenant, cache_salt, adapter):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Name the content of a block: everything before it and its own tokens."""
    return sha256(parent + array("I", token_ids).tobytes()).digest()


class PrefixCache:
    """Two maps that are each other's inverse, hash -> block and block -> hash, and contents."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._continuations = Continuations()

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._hash_of

    def lookup(self, block_hashes: Sequence[bytes]) -> list[int]:
        """Find the blocks of the longest known beginning of a chain."""
        block_ids = []
        for name in block_hashes:
            block_id = self._block_of.get(name)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids

    def find_part(self, parent: bytes, token_ids: Sequence[int]) -> PartialBlock | None:
        """Find the block behind `parent` that begins like the tokens for the longest."""
        return self._continuations.find(parent, token_ids)

    def insert(self, block_id: int, parent: bytes, token_ids: Sequence[int]) -> bool:
        """Remember a block's content, in place of the less it held before; False when another
        block already holds the same."""
        name = block_hash(parent, token_ids)
        if name in self._block_of:
            return self._block_of[name] == block_id
        self.forget([block_id])
        self._block_of[name] = block_id
        self._hash_of[block_id] = name
        self._continuations.put(parent, token_ids, block_id)
        return True

    def clear(self) -> None:
        """Forget every block."""
        self._block_of.clear()
        self._hash_of.clear()
        self._continuations.clear()

    def forget(self, block_ids: Sequence[int]) -> None:
        """Drop blocks that get new content. Blocks without an entry are fine."""
        for block_id in block_ids:
            name = self._hash_of.pop(block_id, None)
            if name is not None:
                del self._block_of[name]
                self._continuations.drop(block_id)
