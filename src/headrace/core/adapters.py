"""AdapterFacts: what an engine says of a LoRA adapter that it has loaded."""

from __future__ import annotations

from headrace.core.frozen import frozen


@frozen
class AdapterFacts:
    """Units: bytes in memory. `sha256` is of its files; `base_name` what they call their base."""

    sha256: str
    rank: int
    num_bytes: int
    base_name: str
