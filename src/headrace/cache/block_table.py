"""The blocks of one sequence. Held by a request, changed by `KVCacheManager` only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class BlockTable:
    """Which blocks hold a sequence, in order, and the hash chain of its full blocks.

    block_ids      | b0 | b1 | b2 | b3 |
    block_hashes   | h0 | h1 | h2 |        grows as tokens become known; kept when blocks are freed
                   |----|                  num_registered: findable by others, or shared from them
                   |---------|             num_claimed: announced as being computed
    end_hash                      |-|      tokens known when it was looked up, behind full blocks:
                                           `num_end_tokens` in all; announced while has_claimed_end
    """

    root: bytes
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_registered: int = 0
    num_claimed: int = 0
    end_hash: bytes = b""
    num_end_tokens: int = 0
    has_claimed_end: bool = False
