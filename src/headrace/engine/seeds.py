"""Seeds of a request's answers: given, drawn, or derived."""

from __future__ import annotations

import secrets
from hashlib import sha256

from headrace.core.receipt import SEED_BITS


def resolve_seed(seed: int | None) -> int:
    """Make a seed unsigned 64 bit; draw one that can be given again when none is given."""
    return secrets.randbits(SEED_BITS) if seed is None else seed % 2**64


def derive_seed(seed: int, index: int) -> int:
    """Seed of answer `index` among n.

    Answer 0 has the request's own seed, so it is the answer that n = 1 gives. The others are the
    first 8 bytes, little-endian, of SHA-256 over "headrace seed", seed and index (8 bytes each,
    little-endian).
    """
    if index == 0:
        return seed
    text = b"headrace seed" + seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(sha256(text).digest()[:8], "little")
