"""Metered: the Backend that one call of one caller sees, and the account of what it used.

In: the requests of a call, and how it ended. Out: the same requests in the caller's name and within
the key's limits, to the backend behind; one usage row, whatever ended the call. Knows neither HTTP
nor what answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any

from headrace.core.backend import Backend, Health, ModelInfo, ModelText
from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock
from headrace.core.errors import InvalidParameter
from headrace.core.output import RequestOutput, RequestTimes
from headrace.core.receipt import CostReceipt
from headrace.core.request import GenerateRequest
from headrace.core.routing import Route, Routed, Routes
from headrace.core.stores import MAX_PRIORITY, Caller
from headrace.core.tracing import TraceContext
from headrace.core.usage import Usage
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import BudgetHold, Spender
from headrace.economics.call_parts import CallPart, add_costs, parts_of
from headrace.economics.call_watch import AttemptEnd, CallEnd, tell
from headrace.economics.cost import NOTHING, Cost, price_call
from headrace.economics.most_cost import most_it_costs
from headrace.economics.prices import LOCAL, Price, PriceBook, format_usd
from headrace.economics.rate_limits import LimitLevel, Reservation
from headrace.economics.usage_row import UsageRow, UsageSource, new_row_id

# Of prose more, of code and other scripts less; rather too many tokens than too few.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What is known of a call before it is read."""

    request_id: str
    operation: str
    caller: Caller
    patience_s: float | None = None
    # Served when nothing else is to be done: batches.
    is_background: bool = False
    tags: tuple[str, ...] = ()
    trace: TraceContext | None = None


@dataclass(slots=True)
class _Attempt:
    """A request that the backend has taken. `usage` is None until an output says it."""

    request: GenerateRequest
    estimated_input_tokens: int
    held: Reservation | None
    usage: Usage | None = None
    times: RequestTimes | None = None
    end_s: float | None = None
    is_finished: bool = False
    finish_reasons: set[str] = field(default_factory=set)
    routed: Routed | None = None

    @property
    def billed(self) -> Usage:
        """What was used, or as much of the prompt as is known by its length."""
        if self.routed is not None:
            usages = (attempt.usage for attempt in self.routed.route.attempts)
            return sum((usage for usage in usages if usage is not None), Usage())
        return self.usage or Usage(input_tokens=self.estimated_input_tokens)


class Metered:
    """Stands for `backend` during a call: no request of the call can go out in another name.

    `begin` it before anything else, `close` it when the call has ended.
    """

    def __init__(
        self, backend: Backend, facts: CallFacts, accounts: Accounts, clock: Clock
    ) -> None:
        self._backend, self._facts, self._accounts, self._clock = backend, facts, accounts, clock
        self._begin_s, self._accepted_at_s = clock.monotonic_s(), clock.unix_s()
        self._first_output_s: float | None = None
        self._model: str | None = None
        self._attempts: list[_Attempt] = []
        self._error: BaseException | None = None
        self._account = accounts.limits.account(facts.caller, self._begin_s)
        self._holds: list[BudgetHold] = []
        self._has_begun = False
        self.is_detached = False
        # None until the body was read.
        self.is_stream: bool | None = None
        # What the caller says that it is about; routing goes by it.
        self.task: str | None = None
        # What it wants of kept answers.
        self.cache_control: CacheControl | None = None

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._backend.models()

    def health(self) -> Health:
        """See core.backend.Backend."""
        return self._backend.health()

    @property
    def has_failed(self) -> bool:
        """Whether an error ended the call, or what it began."""
        return self._error is not None

    def begin(self) -> None:
        """Count the call. Raises: RateLimited."""
        if self._account is not None:
            self._account.begin(self._begin_s)
        self._has_begun = True

    def detach(self) -> None:
        """Go on after the call is answered: who detaches it closes it, and nobody else."""
        self.is_detached = True

    def be_patient(self) -> None:
        """Nobody waits for the answer: it may queue for as long as it takes."""
        self._facts = replace(self._facts, patience_s=None)

    def limit_headers(self) -> dict[str, str]:
        """What is left of the key's limits; empty without any."""
        return {} if self._account is None else self._account.headers(self._clock.monotonic_s())

    def limit_levels(self) -> tuple[LimitLevel, ...]:
        """What is left of the key's limits, as records."""
        return () if self._account is None else self._account.levels(self._clock.monotonic_s())

    def cost(self) -> Cost | None:
        """What the call costs as far as it got; None where no costs are kept."""
        if self._accounts.prices is None:
            return None
        return add_costs([self._price(part) for part in self._parts()])

    def route(self) -> Route | None:
        """Where the first request of the call is served; None where nothing is routed."""
        routes = self._routes()
        return routes[0] if routes else None

    def cost_receipt(self) -> CostReceipt | None:
        """The cost for the caller's eyes."""
        cost = self.cost()
        if cost is None:
            return None
        return CostReceipt(
            price_state=cost.state,
            usd=None if cost.nano_usd is None else format_usd(cost.nano_usd),
            marginal_usd=(
                None if cost.marginal_nano_usd is None else format_usd(cost.marginal_nano_usd)
            ),
            price_id=None if cost.price is None else cost.price.id,
        )

    def cost_headers(self) -> dict[str, str]:
        """The cost of a call whose answers are complete; empty before that."""
        if not self._attempts or not all(attempt.is_finished for attempt in self._attempts):
            return {}
        cost = self.cost()
        if cost is None:
            return {}
        headers: dict[str, str] = {"x-headrace-price-state": cost.state}
        if cost.nano_usd is not None:
            headers["x-headrace-response-cost"] = format_usd(cost.nano_usd)
        return headers

    def budget_headers(self) -> dict[str, str]:
        """Warnings of budgets that are nearly used up."""
        warnings = dict.fromkeys(text for hold in self._holds for text in hold.warnings)
        return {"x-headrace-budget-warning": "; ".join(warnings)} if warnings else {}

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        return self._backend.text(model)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        self._model = request.model
        facts = self._facts
        request = replace(
            request,
            tenant=facts.caller.tenant,
            priority=_priority(request, facts.caller),
            patience_s=facts.patience_s,
            is_background=facts.is_background,
            call_id=facts.request_id,
            trace=facts.trace,
            task=self.task,
            is_whole=not self.is_stream,
            cache_control=self.cache_control,
        )
        holds = await self._hold_money(request)
        try:
            return await self._admit(request)
        except BaseException:
            self._drop(holds)
            raise

    def note_output(self, attempt: _Attempt, output: RequestOutput) -> None:
        """Keep what an output says. Mutates: attempt."""
        if self._first_output_s is None:
            self._first_output_s = self._clock.monotonic_s()
        attempt.usage = output.usage
        for delta in output.deltas:
            if delta.finish_reason is not None:
                attempt.finish_reasons.add(delta.finish_reason)
        if output.is_finished:
            attempt.is_finished, attempt.times = True, output.times
            attempt.end_s = self._clock.monotonic_s()
            self._settle(attempt)
            if all(other.is_finished for other in self._attempts):
                self._leave()

    def note_error(self, error: BaseException) -> None:
        """Keep why the call failed; the first reason counts."""
        self._error = self._error or error
        self._leave()

    def close(self, http_status: int | None, has_client_left: bool) -> UsageRow:
        """Settle what was held and write the row. Call it once."""
        for attempt in self._attempts:
            self._settle(attempt)
        self._leave()
        error = "client_disconnected" if has_client_left else _name_error(self._error)
        row, *others = self._make_rows(http_status, error)
        if self._accounts.budgets is not None:
            self._accounts.budgets.settle(self._holds, row)
            for other in others:
                self._accounts.budgets.settle((), other)
        if self._accounts.ledger is not None:
            for one in (row, *others):
                self._accounts.ledger.append(one)
        tell(self._accounts.watchers, self._call_end(row))
        return row

    def _call_end(self, row: UsageRow) -> CallEnd:
        """What watchers are told. Times of Unix are those of the start and the clock's distance."""
        to_unix_s = self._accepted_at_s - self._begin_s
        attempts = tuple(
            AttemptEnd(
                attempt.request,
                attempt.usage,
                attempt.times,
                None if attempt.end_s is None else attempt.end_s + to_unix_s,
            )
            for attempt in self._attempts
        )
        trace = self._facts.trace
        return CallEnd(row, attempts, self._accepted_at_s, trace, self.is_stream)

    async def _admit(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Have the backend take a request, within the key's limits. Raises: see generate."""
        num_estimated = estimate_input_tokens(request)
        attempt = _Attempt(request, num_estimated, self._reserve(request, num_estimated))
        try:
            stream = await self._backend.generate(request)
        except BaseException:
            attempt.usage = Usage()
            self._settle(attempt)
            raise
        if isinstance(stream, Routed):
            attempt.routed = stream
        self._attempts.append(attempt)
        return _MeteredStream(stream, self, attempt)

    async def _hold_money(self, request: GenerateRequest) -> list[BudgetHold]:
        """Hold what the request may cost at most, at every model that it may come to.

        Raises: BudgetExceeded, CapacityError, RequestError.
        """
        budgets, prices = self._accounts.budgets, self._accounts.prices
        if budgets is None or prices is None:
            return []
        caller, day = self._facts.caller, self._day()
        holds: list[BudgetHold] = []
        try:
            for model, info in self._payable(request):
                spender = Spender(caller.tenant, caller.key_id, model, self._facts.tags, day)
                most: int | None = 0
                if budgets.limits(spender):
                    provider = self._provider() if info is None else info.provider
                    price = self._find_price(prices, provider, model, day)
                    asked = replace(request, model=model)
                    most = await most_it_costs(self._backend, asked, price, info)
                hold = budgets.reserve(spender, most)
                if hold is not None:
                    holds.append(hold)
                    self._holds.append(hold)
        except BaseException:
            self._drop(holds)
            raise
        return holds

    def _payable(self, request: GenerateRequest) -> list[tuple[str, ModelInfo | None]]:
        """Models that the request may cost something at."""
        if isinstance(self._backend, Routes):
            return [(info.name, info) for info in self._backend.payable(request)]
        infos = (info for info in self.models() if info.name == request.model)
        return [(request.model, next(infos, None))]

    def _drop(self, holds: Sequence[BudgetHold]) -> None:
        """The request of these holds does not run."""
        for hold in holds:
            if self._accounts.budgets is not None:
                self._holds.remove(hold)
                self._accounts.budgets.release(hold)

    def _reserve(self, request: GenerateRequest, num_input_tokens: int) -> Reservation | None:
        """Hold what the request may use. Raises: RateLimited."""
        if self._account is None:
            return None
        sampling, limit = request.sampling, self._account.output_limit
        num_output_tokens = sampling.max_tokens or 0
        if not num_output_tokens and limit is not None:
            # What the server or the context leaves; no more than a minute's worth, so that it can
            # run at all.
            lengths = (info.max_model_len for info in self.models() if info.name == request.model)
            longest = request.default_max_tokens or next(lengths, limit)
            num_output_tokens = min(longest, max(1, limit // sampling.n))
        num_output_tokens *= sampling.n
        now_s = self._clock.monotonic_s()
        return self._account.reserve(num_input_tokens, num_output_tokens, now_s)

    def _leave(self) -> None:
        """Give the call's place back before its client can know that it has ended and ask again."""
        if self._account is not None and self._has_begun:
            self._has_begun = False
            self._account.end()

    def _settle(self, attempt: _Attempt) -> None:
        """Bring what is held to what was used. Mutates: attempt."""
        held, attempt.held = attempt.held, None
        if self._account is not None and held is not None:
            usage = attempt.billed
            now_s = self._clock.monotonic_s()
            self._account.settle(held, usage.input_tokens, usage.output_tokens, now_s)

    def _find_price(self, prices: PriceBook, provider: str, model: str, day: date) -> Price | None:
        """The model's own price; an adapter without one costs what its model does."""
        found = prices.find(provider, model, day)
        if found is not None:
            return found
        parents = (info.parent for info in self.models() if info.name == model)
        parent = next(parents, None)
        return None if parent is None else prices.find(provider, parent, day)

    def _day(self) -> date:
        return datetime.fromtimestamp(self._accepted_at_s, UTC).date()

    def _provider(self) -> str:
        """Whose model serves the call."""
        names = (info.provider for info in self.models() if info.name == self._model)
        return next(names, LOCAL)

    def _routes(self) -> list[Route]:
        """The way of each request of the call, where something is routed."""
        return [attempt.routed.route for attempt in self._attempts if attempt.routed is not None]

    def _parts(self) -> list[CallPart]:
        """Who is owed something for the call, the one that answered first."""
        routes = self._routes()
        parts = parts_of(routes)
        if parts:
            return parts
        if routes:
            # Nobody was asked: the answer is an old one, and costs nothing.
            return [CallPart(self._model or "", self._provider(), routes[0].tier)]
        usages = [attempt.billed for attempt in self._attempts]
        return [CallPart(self._model or "", self._provider(), usages=usages)]

    def _price(self, part: CallPart) -> Cost:
        """What a part costs, where costs are kept."""
        prices, day = self._accounts.prices, self._day()
        if prices is None:
            return NOTHING
        price = self._find_price(prices, part.provider, part.model, day)
        # Elsewhere a line of a batch is a call like any other.
        is_batch = self._facts.is_background and part.provider == LOCAL
        return price_call(part.usages, price, day, prices.stale_after_days, is_batch=is_batch)

    def _make_rows(self, http_status: int | None, error: str | None) -> list[UsageRow]:
        """The call's own row, then those of other backends that worked for it."""
        main, *others = self._parts()
        row = self._make_row(main, http_status, error)
        number = len(others) + 1
        row = row._replace(attempt=number) if main.tier is not None else row
        rows = [row]
        for place, part in enumerate(others, 1):
            rows.append(
                self._with_part(row, part)._replace(
                    row_id=new_row_id(row.accepted_at_ms),
                    queue_s=None,
                    prefill_s=None,
                    decode_s=None,
                    first_token_s=None,
                    duration_s=None,
                    finish_reason=None,
                    http_status=None,
                    error=part.error,
                    attempt=place,
                    is_part=1,
                )
            )
        return rows

    def _make_row(self, part: CallPart, http_status: int | None, error: str | None) -> UsageRow:
        now_s, accepted_at_ms = self._clock.monotonic_s(), int(self._accepted_at_s * 1000)
        times = [attempt.times for attempt in self._attempts if attempt.times is not None]
        first_s = self._first_output_s
        tags, route = self._facts.tags, self.route()
        row = UsageRow(
            row_id=new_row_id(accepted_at_ms),
            request_id=self._facts.request_id,
            accepted_at_ms=accepted_at_ms,
            day=self._day().isoformat(),
            tenant=self._facts.caller.tenant,
            key_id=self._facts.caller.key_id,
            operation=self._facts.operation,
            queue_s=sum(spent.queue_s for spent in times) if times else None,
            prefill_s=sum(spent.prefill_s for spent in times) if times else None,
            decode_s=sum(spent.decode_s for spent in times) if times else None,
            first_token_s=None if first_s is None else first_s - self._begin_s,
            duration_s=now_s - self._begin_s,
            finish_reason=self._finish_reason(),
            error=error,
            http_status=http_status,
            tags=json.dumps(tags) if tags else None,
            task=self.task if route is None else route.task,
            route_reason=None if route is None else route.reason,
        )
        return self._with_part(row, part)

    def _with_part(self, row: UsageRow, part: CallPart) -> UsageRow:
        """A row with the tokens of a part, and what they cost."""
        # A routed request says itself what is estimated of it.
        is_routed = part.tier is not None
        asked = [] if is_routed else self._attempts
        measured = part.usages if is_routed else [a.usage for a in asked if a.usage is not None]
        is_known = bool(measured) or is_routed or not asked
        usage = sum(measured, Usage())
        row = row._replace(
            model=part.model if is_routed else self._model,
            provider=part.provider if is_routed or self._model is not None else None,
            tier=part.tier,
            backend=part.backend,
            usage_source=self._usage_source(part, usage),
            input_tokens=usage.input_tokens if is_known else None,
            cached_input_tokens=usage.cached_input_tokens if is_known else None,
            output_tokens=usage.output_tokens if is_known else None,
            reasoning_tokens=usage.reasoning_tokens if is_known else None,
            rejected_draft_tokens=usage.rejected_draft_tokens if is_known else None,
            estimated_input_tokens=sum(a.estimated_input_tokens for a in asked if not a.usage),
            cache_write_tokens=usage.cache_write_tokens if is_known else None,
            cache_write_1h_tokens=usage.cache_write_1h_tokens if is_known else None,
        )
        return row if self._accounts.prices is None else _with_cost(row, self._price(part))

    def _usage_source(self, part: CallPart, usage: Usage) -> UsageSource:
        if not self._attempts or (part.tier is not None and not part.usages):
            return "none"
        is_known = part.tier is not None or all(attempt.usage for attempt in self._attempts)
        if usage.is_estimated or not is_known:
            return "estimated"
        return "measured" if part.provider == LOCAL else "reported"

    def _finish_reason(self) -> str | None:
        reasons = {reason for attempt in self._attempts for reason in attempt.finish_reasons}
        if any(not attempt.is_finished for attempt in self._attempts):
            reasons.add("abort" if self._error is None else "error")
        return ",".join(sorted(reasons)) or None


class _MeteredStream(AsyncGenerator[RequestOutput, None]):
    """Passes a stream on and notes what goes by. A class: it adds no frame to each output."""

    def __init__(
        self, stream: AsyncGenerator[RequestOutput, None], call: Metered, attempt: _Attempt
    ) -> None:
        self._stream, self._call, self._attempt = stream, call, attempt

    async def asend(self, value: None) -> RequestOutput:
        """See AsyncGenerator."""
        try:
            output = await self._stream.asend(None)
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except BaseException as error:
            self._call.note_error(error)
            raise
        self._call.note_output(self._attempt, output)
        return output

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        """See AsyncGenerator."""
        return await self._stream.athrow(kind, value, trace)

    async def aclose(self) -> None:
        """See AsyncGenerator."""
        await self._stream.aclose()


def _priority(request: GenerateRequest, caller: Caller) -> int:
    """A request may stand behind its key's others, never before them. 0 is the wire's default.

    Raises: InvalidParameter.
    """
    # Without a key nobody's place is better than another's.
    least = -MAX_PRIORITY if caller.key_id is None else caller.priority
    wanted = request.priority or (0 if caller.key_id is None else caller.priority)
    if not least <= wanted <= MAX_PRIORITY:
        whose = "" if caller.key_id is None else f"; {least} is the key's priority"
        allowed = f"a whole number from {least} to {MAX_PRIORITY}{whose}"
        raise InvalidParameter("priority", request.priority, allowed)
    return wanted


def estimate_input_tokens(request: GenerateRequest) -> int:
    """Tokens of a prompt by its length; exact where it is given as tokens."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        text = request.prompt + (request.second_text or "") + (request.suffix or "")
        return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1
    messages = request.messages or ()
    num_bytes = sum(len((message.content or "").encode("utf-8", "replace")) for message in messages)
    return num_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages)


def _with_cost(row: UsageRow, cost: Cost) -> UsageRow:
    rates = cost.rates
    return row._replace(
        price_state=cost.state,
        price_id=None if cost.price is None else cost.price.id,
        input_rate=rates.input,
        cached_input_rate=rates.cached_input,
        cache_write_rate=rates.cache_write,
        cache_write_1h_rate=rates.cache_write_1h,
        output_rate=rates.output,
        reasoning_rate=rates.reasoning,
        cost_nano_usd=cost.nano_usd,
        marginal_nano_usd=cost.marginal_nano_usd,
    )


def _name_error(error: BaseException | None) -> str | None:
    """A short name that reports can group by: never the message, which may quote the request."""
    if error is None:
        return None
    return getattr(error, "code", None) or type(error).__name__
