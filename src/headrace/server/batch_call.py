"""BatchCall: a line of a batch as a call of its tenant, through the route a request would take.

In: a line. Out: its result and its usage row. What the caller can mend ends in the error file; what
only waiting can mend (a full, starting or restarted engine) is asked again. A call is in the
background: the engine serves interactive requests first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from headrace.core.batches import BatchRecord
from headrace.core.errors import (
    BackendError,
    BatchStopped,
    CapacityError,
    InvalidParameter,
    RateLimited,
    UnsupportedParameter,
)
from headrace.core.frozen import frozen
from headrace.core.request import MAX_N
from headrace.core.stores import Caller
from headrace.economics.accounts import Accounts
from headrace.economics.call_progress import CallFacts
from headrace.economics.metered import Metered
from headrace.economics.usage_row import Ledger, UsageRow
from headrace.server.batch_lines import BatchLine, ResponseBody, count_answers, encode_output
from headrace.server.cache_control import read_cache_control
from headrace.server.call_log import call_fields
from headrace.server.end_user_of import end_user_of
from headrace.server.error_responses import describe_error, is_our_fault
from headrace.server.kept_requests import keep_request
from headrace.server.lifetime import stopping_error
from headrace.server.replies import WARNINGS, EventReply, JsonReply
from headrace.server.services import Call, Services
from headrace.server.task_of import task_of

Route = Callable[[Services, Call], Awaitable[JsonReply | EventReply]]

# A request that ends the engine each time must not do so forever.
MAX_ENGINE_FAILURES = 3
_FIRST_WAIT_S, _LAST_WAIT_S = 0.25, 5.0
_log = logging.getLogger(__name__)


@frozen
class Outcome:
    """A line that was asked: what its file gets, and what the ledger does.

    `output` is None where the answer was cut off, or is asked for again: it has used something.
    """

    number: int
    is_error: bool
    output: bytes | None
    row: UsageRow


class _Rows:
    """A Ledger of one call: the row goes on when the result is on the disk."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger
        self.row: UsageRow | None = None

    def append(self, row: UsageRow) -> None:
        """See economics.usage_row.Ledger. What other backends were paid is in no result."""
        if not row.is_part:
            self.row = row
        elif self._ledger is not None:
            self._ledger.append(row)


class BatchCall:
    """Answers the lines of one batch.

    `spend` gets what was used without a result; `reason` says why lines are cut off, None where
    the server ends.
    """

    def __init__(
        self,
        services: Services,
        route: Route,
        record: BatchRecord,
        spend: Callable[[Outcome], None],
        reason: Callable[[], str | None],
    ) -> None:
        self._services, self._route, self._record = services, route, record
        self._spend, self._reason = spend, reason

    async def answer(self, line: BatchLine) -> Outcome:
        """Ask until there is a result. Cancelling it leaves a row and no result."""
        num_failures, wait_s = 0, _FIRST_WAIT_S
        while True:
            rows, request_id = (
                _Rows(self._services.accounts.ledger),
                f"{self._record.id}:{line.number}",
            )
            try:
                # Else each look at an engine that is paused would be told of as a call that failed.
                self._services.check_ready()
                reply = await self._ask(line, request_id, rows)
                return _make_outcome(line, request_id, reply, rows)
            except (CapacityError, RateLimited, BackendError) as error:
                num_failures += isinstance(error, BackendError)
                if not _is_passing(error) or num_failures >= MAX_ENGINE_FAILURES:
                    return _make_failure(line, request_id, error, rows)
                # Each attempt has used what it has used.
                self._pass_on(line, rows)
            except asyncio.CancelledError:
                self._pass_on(line, rows)
                raise
            except Exception as error:
                if is_our_fault(error):
                    _log.exception("request %s failed", request_id)
                return _make_failure(line, request_id, error, rows)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)

    def _pass_on(self, line: BatchLine, rows: _Rows) -> None:
        # A call that never reached the engine is asked again and was none.
        if rows.row is not None and rows.row.usage_source != "none":
            self._spend(Outcome(line.number, True, None, rows.row))

    async def _ask(self, line: BatchLine, request_id: str, rows: _Rows) -> JsonReply:
        record, services = self._record, self._services
        caller = Caller(record.tenant, record.key_id)
        facts = CallFacts(request_id, record.endpoint, caller, is_background=True)
        shared = services.accounts
        accounts = Accounts(
            ledger=rows, prices=shared.prices, watchers=shared.watchers, budgets=shared.budgets
        )
        meter = Metered(services.backend, facts, accounts, services.clock)
        status: int | None = None
        try:
            meter.begin()
            check_line(line)
            meter.task = task_of({}, line.body)
            meter.cache_control = read_cache_control({}, line.body)
            meter.end_user = end_user_of(line.body)
            call = Call(line.body, {}, request_id, caller, meter)
            call.notes.keeps_tokens = services.accounts.requests is not None
            reply = await self._route(self._background(meter), call)
            if not isinstance(reply, JsonReply):
                raise TypeError(f"{record.endpoint} answered a line of a batch with a stream.")
            status = reply.status
            keep_request(services, call)
            return reply
        except asyncio.CancelledError:
            reason = self._reason()
            meter.note_error(stopping_error() if reason is None else BatchStopped(reason))
            raise
        except Exception as error:
            meter.note_error(error)
            status = describe_error(error, request_id).status
            raise
        finally:
            row = meter.close(status, has_client_left=False)
            fields = call_fields(row) | {"status": status}
            _log.debug("line %s", request_id, extra={"fields": fields})

    def _background(self, meter: Metered) -> Services:
        """What the route sees: a line may wait for its turn as long as the batch may."""
        services = self._services
        left_s = max(60.0, self._record.expires_at_s - services.clock.unix_s())
        config = replace(services.config, request_timeout_s=left_s)
        return replace(services, backend=meter, config=config)


def check_line(line: BatchLine) -> None:
    """Refuse what a batch cannot give. Raises: RequestError."""
    if line.body.get("stream"):
        raise UnsupportedParameter("stream", "a batch has no streams. Leave it out.")
    if line.body.get("background"):
        raise UnsupportedParameter("background", "a batch runs there already. Leave it out.")
    num_answers = count_answers(line.body)
    if num_answers > MAX_N:
        allowed = f"at most {MAX_N} answers in a line of a batch, over all prompts"
        raise InvalidParameter("n", num_answers, allowed, "Use more lines.")


def _is_passing(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, BackendError):
        return error.retryable
    return isinstance(error, CapacityError | RateLimited)


def _make_outcome(line: BatchLine, request_id: str, reply: JsonReply, rows: _Rows) -> Outcome:
    names = reply.headers.get(WARNINGS, "")
    warnings = tuple(names.split(",")) if names else ()
    response = ResponseBody(reply.status, request_id, msgspec.Raw(reply.body), warnings)
    return _outcome(line, reply.status >= 400, encode_output(line.custom_id, response), rows)


def _make_failure(line: BatchLine, request_id: str, error: Exception, rows: _Rows) -> Outcome:
    reply = describe_error(error, request_id)
    response = ResponseBody(reply.status, request_id, msgspec.Raw(reply.body()))
    return _outcome(line, True, encode_output(line.custom_id, response), rows)


def _outcome(line: BatchLine, is_error: bool, output: bytes, rows: _Rows) -> Outcome:
    if rows.row is None:
        raise RuntimeError("A call was closed without a row.")
    return Outcome(line.number, is_error, output, rows.row)
