"""Receipt: what an answer was really made with and what it took, as frozen records.

In: the request as it was run, what the engine says of it, the file and the program that answered.
Out: plain data that a caller may be shown and that a repetition is compared with. Holds neither
prompt nor answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headrace.core.frozen import frozen

# request: the body named it; api: the API's default; server: a setting of the server; context: what
# the context left; drawn: by chance, because the body named no seed.
ParameterSource = Literal["request", "api", "server", "context", "drawn"]

# A drawn seed is one that every JSON reader keeps exact.
SEED_BITS = 53


@frozen
class Parameter:
    """A value that was in effect, and where it came from."""

    value: Any
    source: ParameterSource


@frozen
class ModelBuild:
    """What answers for a model: its file and the engine around it.

    `sha256` is None until it is known. `kernels` names the kernels and their instruction set.
    `adapter` is the name of the one that was used, with the digest of its file.
    """

    file: str
    sha256: str | None
    version: str
    kernels: str
    kv_cache_dtype: str
    adapter: str | None = None
    adapter_sha256: str | None = None


@frozen
class ResolvedRequest:
    """What only the engine knows of a request. Units: tokens.

    `draft_acceptance` is `rejection` where the tokens depend on what a draft model guessed when,
    else None.
    """

    max_tokens: int
    num_truncated_tokens: int = 0
    draft_acceptance: str | None = None


@frozen(kw_only=True)
class RequestReceipt:
    """Of one prompt. None: the request ended before it was known. Units: tokens, seconds.

    `truncated_tokens` is 0 unless the body asked for a cut, and `dropped_items` unless it let old
    items of a conversation go. Of the tokens that were guessed, `accepted_draft_tokens` are part of
    the output, `rejected_draft_tokens` of no total. `draft_acceptance` is `rejection` where the
    seed does not give the same tokens again, else None. `seed` is that of whoever computed the
    answer, None where that is not known. Answer i of n has a seed derived of this one; answer 0
    has it as it is.
    """

    seed: Parameter | None
    max_tokens: Parameter
    truncated_tokens: int | None
    dropped_items: int
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    accepted_draft_tokens: int | None
    rejected_draft_tokens: int | None
    draft_acceptance: str | None
    preemptions: int | None
    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None


@frozen(kw_only=True)
class CostReceipt:
    """Of one call. None: not known. Units: dollars as exact text.

    `marginal_usd` is without the idle time of an own machine. `price_id` names the price.
    """

    price_state: str
    usd: str | None
    marginal_usd: str | None
    price_id: str | None


@frozen(kw_only=True)
class Receipt:
    """Of one call. `requests` has an entry for each prompt; `parameters` hold for all of them.

    `cost` is None where no costs are kept.
    """

    parameters: Mapping[str, Parameter]
    requests: tuple[RequestReceipt, ...]
    model: ModelBuild | None
    cost: CostReceipt | None = None
