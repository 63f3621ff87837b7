"""Calls that are made to compare answers: metered like any other, in the name of one tenant.

In: a request for another tier. Out: its whole answer, where it came from, and its cost. Its row in
the ledger has the operation `shadow` and the tenant `shadow`, whose budget bounds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from headrace.core.backend import Backend
from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock
from headrace.core.errors import BackendError
from headrace.core.request import GenerateRequest
from headrace.core.stores import Caller
from headrace.economics.accounts import Accounts
from headrace.economics.call_progress import CallFacts
from headrace.economics.metered import Metered
from headrace.economics.usage_row import SHADOW
from headrace.router.response_cache import join_outputs
from headrace.router.shadow import ShadowAnswer


def shadow_asker(
    accounts: Accounts, clock: Clock
) -> Callable[[Backend, GenerateRequest], Awaitable[ShadowAnswer]]:
    """What asks a backend in the name of `shadow`, behind everybody else."""

    async def ask(backend: Backend, request: GenerateRequest) -> ShadowAnswer:
        facts = CallFacts(request.request_id, SHADOW, Caller(SHADOW), is_background=True)
        meter = Metered(backend, facts, accounts, clock)
        meter.begin()
        meter.task = request.task
        # It is to be a new answer.
        meter.cache_control = CacheControl(reads=False, writes=False)
        try:
            async with aclosing(await meter.generate(request)) as stream:
                answer = join_outputs([output async for output in stream])
            if answer is None:
                raise BackendError("The answer of a comparison did not end.")
            cost = meter.cost()
            return ShadowAnswer(answer, meter.route(), None if cost is None else cost.nano_usd)
        except BaseException as error:
            meter.note_error(error)
            raise
        finally:
            meter.close(None, False)

    return ask
