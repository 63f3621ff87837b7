"""The most that a request can cost: what a budget holds for it before it runs.

In: a request, its model and price. Out: nano-dollars that its bill cannot exceed, or None without a
price. Prompts are counted by the model's own tokenizer; where there is none here, by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.core.backend import Backend, ModelInfo
from headrace.core.errors import ModelNotFound, UnsupportedParameter
from headrace.core.request import GenerateRequest
from headrace.economics.cost import MTOK
from headrace.economics.prices import Price, Rates

# What templates and providers put around a message, in tokens, and no more than that.
_AROUND_MESSAGE = 64


async def most_it_costs(
    backend: Backend, request: GenerateRequest, price: Price | None, info: ModelInfo | None
) -> int | None:
    """Raises: RequestError for a prompt that cannot be read."""
    if price is None:
        return None
    num_input, is_exact = await _most_input(backend, request)
    least_input = num_input if is_exact else 0
    num_output = 0 if request.pooling is not None else _most_output(request, least_input, info)
    # Which tier and which kind the tokens will be is not known yet.
    rates = [
        tier.resolved()
        for schedule in (price.standard, price.batch)
        if schedule is not None
        for tier in (schedule.rates, *(step.rates.over(schedule.rates) for step in schedule.tiers))
    ]
    dearest_input = _dearest(_input_rates(rate) for rate in rates)
    dearest_output = _dearest((rate.output, rate.reasoning) for rate in rates)
    if (num_input and dearest_input is None) or (num_output and dearest_output is None):
        return None
    nano_usd_mtok = num_input * (dearest_input or 0) + num_output * (dearest_output or 0)
    return -(-nano_usd_mtok // MTOK)


async def _most_input(backend: Backend, request: GenerateRequest) -> tuple[int, bool]:
    """The most tokens the prompt has, and whether it has no fewer."""
    if isinstance(request.prompt, tuple):
        # What is cut off leaves its place to the answer.
        return len(request.prompt), request.truncate_prompt_tokens is None
    try:
        return len(await backend.text(request.model).encode(request)), True
    except (ModelNotFound, UnsupportedParameter):
        return _num_bytes(request), False


def _num_bytes(request: GenerateRequest) -> int:
    """No token is shorter than a byte."""
    if isinstance(request.prompt, str):
        whole = request.prompt + (request.suffix or "")
        return len(whole.encode("utf-8", "replace")) + _AROUND_MESSAGE
    total = _AROUND_MESSAGE
    for message in request.messages or ():
        total += len(repr(message).encode("utf-8", "replace")) + _AROUND_MESSAGE
    return total + sum(len(repr(tool).encode("utf-8", "replace")) for tool in request.tools)


def _most_output(request: GenerateRequest, least_input: int, info: ModelInfo | None) -> int:
    sampling = request.sampling
    left = None if info is None else max(1, info.max_model_len - least_input)
    wanted = sampling.max_tokens
    if wanted is None:
        wanted = request.default_max_tokens or left or 0
    return sampling.n * (wanted if left is None else min(wanted, left))


def _input_rates(rates: Rates) -> tuple[int | None, ...]:
    return rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h


def _dearest(rates: Iterable[tuple[int | None, ...]]) -> int | None:
    known = [rate for group in rates for rate in group if rate is not None]
    return max(known, default=None)
