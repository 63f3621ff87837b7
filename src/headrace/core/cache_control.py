"""What a caller wants of the cache of answers, as a record.

In: fields and headers of a call. Out: frozen. Whether anything is cached is the router's setting.
"""

from __future__ import annotations

from headrace.core.frozen import frozen


@frozen(kw_only=True)
class CacheControl:
    """The defaults take an answer that is there, and keep one that is not. Units: seconds.

    Fields:
        reads, writes: whether an old answer may be taken; whether the new one may be kept.
        max_age_s: older answers are not taken.
        ttl_s: how long the new one is kept, at most what the server allows.
        namespace: apart from the tenant's other answers.
        is_seeded: the caller named the seed, so that it is part of what is asked.
    """

    reads: bool = True
    writes: bool = True
    max_age_s: float | None = None
    ttl_s: float | None = None
    namespace: str = ""
    is_seeded: bool = False
