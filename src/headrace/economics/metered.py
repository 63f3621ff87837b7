"""Metered: the Backend that one call of one caller sees, and the account of what it used.

In: the requests of a call, and how it ended. Out: the same requests in the caller's name and within
the key's limits, to the backend behind; one usage row, whatever ended the call. What rows and costs
say is `call_rows` and `call_costs`. Knows neither HTTP nor what answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from headrace.core.backend import Backend, Health, ModelInfo, ModelText
from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock
from headrace.core.end_user import NOBODY, EndUser, digest_of
from headrace.core.errors import InvalidParameter, UndeclaredTask
from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream
from headrace.core.receipt import CostReceipt
from headrace.core.request import GenerateRequest
from headrace.core.routing import Route, Routed, Routes
from headrace.core.stores import MAX_PRIORITY, Caller
from headrace.core.usage import Usage
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import BudgetHold, Spender
from headrace.economics.call_costs import CallCosts, cost_headers, receipt_of
from headrace.economics.call_progress import Attempt, CallFacts, CallProgress
from headrace.economics.call_rows import CallOutcome, error_name, make_rows
from headrace.economics.call_watch import AttemptEnd, CallEnd, tell
from headrace.economics.cost import Cost
from headrace.economics.most_cost import most_it_costs
from headrace.economics.rate_limits import LimitLevel, Reservation
from headrace.economics.token_estimate import estimate_input_tokens
from headrace.economics.usage_row import UsageRow


class Metered:
    """Stands for `backend` during a call: no request of the call can go out in another name.

    `begin` it before anything else, `close` it when the call has ended.
    """

    def __init__(
        self, backend: Backend, facts: CallFacts, accounts: Accounts, clock: Clock
    ) -> None:
        self._backend, self._accounts, self._clock = backend, accounts, clock
        self._progress = CallProgress(facts, clock.monotonic_s(), clock.unix_s())
        self._costs = CallCosts(self._progress, accounts, backend)
        self._account = accounts.limits.account(facts.caller, self._progress.begin_s)
        self._holds: list[BudgetHold] = []
        self._has_begun = False
        self.is_detached = False
        # None until the body was read.
        self.is_stream: bool | None = None
        # What the caller says that it is about; routing goes by it. What nobody was asked about
        # counts under no task: a caller may make up any.
        self.task: str | None = None
        self._is_task_known = False
        # What it wants of kept answers.
        self.cache_control: CacheControl | None = None
        # For whom the caller asks.
        self.end_user: EndUser = NOBODY

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._backend.models()

    def health(self) -> Health:
        """See core.backend.Backend."""
        return self._backend.health()

    @property
    def has_failed(self) -> bool:
        """Whether an error ended the call, or what it began."""
        return self._progress.error is not None

    def begin(self) -> None:
        """Count the call. Raises: RateLimited."""
        if self._account is not None:
            self._account.begin(self._progress.begin_s)
        self._has_begun = True

    def detach(self) -> None:
        """Go on after the call is answered: who detaches it closes it, and nobody else."""
        self.is_detached = True

    def be_patient(self) -> None:
        """Nobody waits for the answer: it may queue for as long as it takes."""
        self._progress.facts = replace(self._progress.facts, patience_s=None)

    def limit_headers(self) -> dict[str, str]:
        """What is left of the key's limits; empty without any."""
        return {} if self._account is None else self._account.headers(self._clock.monotonic_s())

    def limit_levels(self) -> tuple[LimitLevel, ...]:
        """What is left of the key's limits, as records."""
        return () if self._account is None else self._account.levels(self._clock.monotonic_s())

    def cost(self) -> Cost | None:
        """What the call costs as far as it got; None where no costs are kept."""
        return self._costs.total()

    def route(self) -> Route | None:
        """Where the first request of the call is served; None where nothing is routed."""
        return self._progress.route()

    def cost_receipt(self) -> CostReceipt | None:
        """The cost for the caller's eyes."""
        cost = self.cost()
        return None if cost is None else receipt_of(cost)

    def cost_headers(self) -> dict[str, str]:
        """The cost of a call whose answers are complete; empty before that."""
        cost = self.cost() if self._progress.is_answered else None
        return {} if cost is None else cost_headers(cost)

    def budget_headers(self) -> dict[str, str]:
        """Warnings of budgets that are nearly used up."""
        warnings = dict.fromkeys(text for hold in self._holds for text in hold.warnings)
        return {"x-headrace-budget-warning": "; ".join(warnings)} if warnings else {}

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        return self._backend.text(model)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        try:
            return await self._generate(request)
        except UndeclaredTask:
            # Reports by task have what routing has.
            self.task = None
            raise

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        self._progress.model = request.model
        facts = self._progress.facts
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
            cache_key=digest_of(facts.caller.tenant, self.end_user.prompt_cache_key) or "",
        )
        holds = await self._hold_money(request)
        try:
            return await self._admit(request)
        except BaseException:
            self._drop(holds)
            raise

    def note_output(self, attempt: Attempt, output: RequestOutput) -> None:
        """Keep what an output says. Mutates: attempt."""
        progress = self._progress
        if progress.first_output_s is None:
            progress.first_output_s = self._clock.monotonic_s()
        attempt.note(output)
        if output.is_finished:
            attempt.end_s = self._clock.monotonic_s()
            self._settle(attempt)
            if progress.is_answered:
                self._leave()

    def note_error(self, error: BaseException) -> None:
        """Keep why the call failed; the first reason counts."""
        self._progress.error = self._progress.error or error
        self._leave()

    def close(self, http_status: int | None, has_client_left: bool) -> UsageRow:
        """Settle what was held and write the row. Call it once."""
        progress = self._progress
        for attempt in progress.attempts:
            self._settle(attempt)
        self._leave()
        error = "client_disconnected" if has_client_left else error_name(progress.error)
        now_s, who = self._clock.monotonic_s(), self.end_user
        task = self.task if self._is_task_known else None
        outcome = CallOutcome(now_s, http_status, error, task, who)
        row, *others = make_rows(progress, self._costs, outcome)
        if self._accounts.budgets is not None:
            # What is held goes last: nobody may take it for free while parts are not yet spent.
            for other in others:
                self._accounts.budgets.settle((), other)
            self._accounts.budgets.settle(self._holds, row)
        if self._accounts.ledger is not None:
            for one in (row, *others):
                self._accounts.ledger.append(one)
        if self._accounts.watchers:
            tell(self._accounts.watchers, self._call_end(row))
        return row

    def _call_end(self, row: UsageRow) -> CallEnd:
        """What watchers are told. Times of Unix are those of the start and the clock's distance."""
        progress = self._progress
        accepted_at_s = progress.accepted_at_s
        to_unix_s = accepted_at_s - progress.begin_s
        attempts = tuple(
            AttemptEnd(
                attempt.request,
                attempt.usage,
                attempt.times,
                None if attempt.end_s is None else attempt.end_s + to_unix_s,
            )
            for attempt in progress.attempts
        )
        return CallEnd(row, attempts, accepted_at_s, progress.facts.trace, self.is_stream)

    async def _admit(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Have the backend take a request, within the key's limits. Raises: see generate."""
        num_estimated = estimate_input_tokens(request)
        attempt = Attempt(request, num_estimated, self._reserve(request, num_estimated))
        self._is_task_known = True
        try:
            stream = await self._backend.generate(request)
        except BaseException:
            attempt.usage = Usage()
            self._settle(attempt)
            raise
        if isinstance(stream, Routed):
            attempt.routed = stream
        self._progress.attempts.append(attempt)
        return _MeteredStream(stream, self, attempt)

    async def _hold_money(self, request: GenerateRequest) -> list[BudgetHold]:
        """Hold what the request may cost at most, at every model that it may come to.

        Raises: BudgetExceeded, CapacityError, RequestError.
        """
        budgets, prices = self._accounts.budgets, self._accounts.prices
        if budgets is None or prices is None or budgets.is_empty:
            return []
        facts, day = self._progress.facts, self._progress.day
        holds: list[BudgetHold] = []
        try:
            for model, info, asked in self._payable(request):
                spender = Spender(facts.caller.tenant, facts.caller.key_id, model, facts.tags, day)
                most: int | None = 0
                if budgets.limits(spender):
                    provider = self._costs.provider() if info is None else info.provider
                    price = self._costs.find_price(prices, provider, model)
                    named = replace(asked, model=model)
                    most = await most_it_costs(self._backend, named, price, info)
                hold = budgets.reserve(spender, most)
                if hold is not None:
                    holds.append(hold)
                    self._holds.append(hold)
        except BaseException:
            self._drop(holds)
            raise
        return holds

    def _payable(
        self, request: GenerateRequest
    ) -> list[tuple[str, ModelInfo | None, GenerateRequest]]:
        """Models that the request may cost something at, and what they are asked."""
        if isinstance(self._backend, Routes):
            found = self._backend.payable(request)
            self._is_task_known = True
            return [(each.info.name, each.info, each.request) for each in found]
        infos = (info for info in self.models() if info.name == request.model)
        return [(request.model, next(infos, None), request)]

    def _drop(self, holds: Sequence[BudgetHold]) -> None:
        """The request of these holds does not run."""
        for hold in holds:
            if self._accounts.budgets is not None:
                self._holds.remove(hold)
                self._accounts.budgets.release(hold)

    def _reserve(self, request: GenerateRequest, num_input_tokens: int) -> Reservation | None:
        """Hold what the request may use. Raises: RateLimited, InvalidParameter."""
        if self._account is None:
            return None
        now_s, is_further = self._clock.monotonic_s(), bool(self._progress.attempts)
        if request.pooling is not None:
            return self._account.reserve(num_input_tokens, 0, now_s, is_further=is_further)
        sampling, limit = request.sampling, self._account.output_limit
        num_answers = max(sampling.n, request.num_call_answers)
        self._account.check_size(sampling.max_tokens, sampling.n, num_answers)
        num_output_tokens = sampling.max_tokens or 0
        if sampling.max_tokens is None and limit is not None:
            # What the server or the context leaves; no more than a minute's worth, so that it can
            # run at all.
            lengths = (info.max_model_len for info in self.models() if info.name == request.model)
            longest = request.default_max_tokens or next(lengths, limit)
            num_output_tokens = min(longest, limit // num_answers)
        return self._account.reserve(
            num_input_tokens,
            num_output_tokens * sampling.n,
            now_s,
            call_output_tokens=0 if is_further else num_output_tokens * num_answers,
            is_further=is_further,
        )

    def _leave(self) -> None:
        """Give the call's place back before its client can know that it has ended and ask again."""
        if self._account is not None and self._has_begun:
            self._has_begun = False
            self._account.end()

    def _settle(self, attempt: Attempt) -> None:
        """Bring what is held to what was used. Mutates: attempt."""
        held, attempt.held = attempt.held, None
        if self._account is not None and held is not None:
            usage = attempt.billed
            now_s = self._clock.monotonic_s()
            self._account.settle(held, usage.input_tokens, usage.output_tokens, now_s)


class _MeteredStream(PassingStream):
    """Notes what goes by."""

    def __init__(
        self, stream: AsyncGenerator[RequestOutput, None], call: Metered, attempt: Attempt
    ) -> None:
        super().__init__(stream)
        self._call, self._attempt = call, attempt

    async def asend(self, value: None) -> RequestOutput:
        """See AsyncGenerator."""
        try:
            output = await self._outputs.asend(None)
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except BaseException as error:
            self._call.note_error(error)
            raise
        self._call.note_output(self._attempt, output)
        return output


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
