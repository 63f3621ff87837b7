"""RateLimits: what each key may still use, in requests, tokens and answers at a time.

In: what a call is about to use, then what it used. Out: a reservation or a refusal with the time to
wait; the numbers for headers. Everything is taken before it is used and settled after, so calls
that run at once cannot use the same room. Belongs to one event loop; starts full.
"""

from __future__ import annotations

import math

from headrace.core.errors import InvalidParameter, RateLimited
from headrace.core.frozen import frozen
from headrace.core.stores import Caller, KeyLimits

MINUTE_S = 60.0
# When an answer that runs will end is not known.
CONCURRENCY_RETRY_S = 1.0


@frozen
class Reservation:
    """Tokens held for a request that runs."""

    input_tokens: int
    output_tokens: int


@frozen
class LimitLevel:
    """How much is left of a limit, and when it is full again. Units: seconds from now."""

    name: str
    limit: int
    left: int
    full_in_s: float


class Bucket:
    """A minute's worth, refilled evenly; below 0 is a debt that is paid before anything else.

    Source: the token bucket of RFC 2697; equal to GCRA, ITU-T I.371.
    """

    def __init__(self, name: str, limit: int, now_s: float) -> None:
        self.name, self.limit = name, limit
        self._level, self._at_s = float(limit), now_s

    def level(self, now_s: float) -> float:
        """What is there now."""
        refilled = self._level + (now_s - self._at_s) * self.limit / MINUTE_S
        self._level, self._at_s = min(refilled, float(self.limit)), now_s
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount`, or the limit if that is less, is there."""
        missing = min(amount, self.limit) - self.level(now_s)
        return max(0.0, missing * MINUTE_S / self.limit)

    def take(self, amount: float, now_s: float) -> None:
        """Take `amount`; less than 0 gives back. The caller has seen that it is there."""
        self._level = min(self.level(now_s) - amount, float(self.limit))


class KeyAccount:
    """The room of one key. Its buckets are those that the key has a limit for."""

    def __init__(self, key_id: str, limits: KeyLimits, now_s: float) -> None:
        self._key_id, self._max_running = key_id, limits.max_concurrent_requests
        self._num_running = 0
        self._requests, self._input, self._output = (
            None if limit is None else Bucket(name, limit, now_s)
            for name, limit in (
                ("requests", limits.requests_per_minute),
                ("input tokens", limits.input_tokens_per_minute),
                ("output tokens", limits.output_tokens_per_minute),
            )
        )

    @property
    def output_limit(self) -> int | None:
        """Tokens of answers a minute."""
        return None if self._output is None else self._output.limit

    def begin(self, now_s: float) -> None:
        """Take a call. `end` gives its place back. Raises: RateLimited."""
        if self._max_running is not None and self._num_running >= self._max_running:
            raise RateLimited(
                f"The key hr_{self._key_id} has {self._num_running} requests in progress; its "
                f"limit is {self._max_running} at a time. Wait for one to end.",
                CONCURRENCY_RETRY_S,
            )
        if self._requests is not None:
            self._check([(self._requests, 1)], now_s)
            self._requests.take(1, now_s)
        self._num_running += 1

    def end(self) -> None:
        """Give the place of a call back."""
        self._num_running -= 1

    def check_size(self, max_tokens: int | None, n: int, num_answers: int) -> None:
        """Refuse answers that would not fit into a full minute, with a token each or more.

        `num_answers` are those of all prompts of the call, `n` to each. Raises: InvalidParameter.
        """
        limit = self.output_limit
        if limit is None or num_answers * (max_tokens or 1) <= limit:
            return
        most = limit // num_answers
        name, value = ("max_tokens", max_tokens) if max_tokens and most else ("n", n)
        told = f"at most {limit}"
        if not most:
            told += " answers to all prompts"
        elif num_answers > 1:
            told = f"at most {most} tokens for each of {num_answers} answers"
        allowed = (
            f"{told}, as the key hr_{self._key_id} is limited to {limit} output tokens per minute"
        )
        hint = "Lower max_tokens, or ask for fewer answers at once."
        raise InvalidParameter(name, value, allowed, hint)

    def reserve(
        self,
        input_tokens: int,
        output_tokens: int,
        now_s: float,
        *,
        call_output_tokens: int = 0,
        is_further: bool = False,
    ) -> Reservation:
        """Hold both or nothing.

        A prompt of more than a minute's worth waits for a full minute and leaves a debt, and so do
        further prompts of a call. Its first waits until there is room for all its answers,
        `call_output_tokens`. Raises: RateLimited.
        """
        awaited_input = 0 if is_further else input_tokens
        wanted = (
            (self._input, input_tokens, awaited_input),
            (self._output, output_tokens, max(output_tokens, call_output_tokens)),
        )
        limited = [(each[0], each) for each in wanted if each[0] is not None]
        self._check([(bucket, each[2]) for bucket, each in limited if each[2]], now_s)
        for bucket, each in limited:
            bucket.take(each[1], now_s)
        return Reservation(input_tokens, output_tokens)

    def settle(
        self, held: Reservation, input_tokens: int, output_tokens: int, now_s: float
    ) -> None:
        """Give back what was held and not used, or take what was used beyond it."""
        if self._input is not None:
            self._input.take(input_tokens - held.input_tokens, now_s)
        if self._output is not None:
            self._output.take(output_tokens - held.output_tokens, now_s)

    def levels(self, now_s: float) -> tuple[LimitLevel, ...]:
        """What is left; `tokens` are input and output together."""
        shown = {
            "requests": [self._requests],
            "tokens": [self._input, self._output],
            "input-tokens": [self._input],
            "output-tokens": [self._output],
        }
        levels = []
        for name, buckets in shown.items():
            known = [bucket for bucket in buckets if bucket is not None]
            if not known:
                continue
            left = sum(max(0, math.floor(bucket.level(now_s))) for bucket in known)
            full_s = max(bucket.wait_s(bucket.limit, now_s) for bucket in known)
            limit = sum(bucket.limit for bucket in known)
            levels.append(LimitLevel(name, limit, left, full_s))
        return tuple(levels)

    def headers(self, now_s: float) -> dict[str, str]:
        """The state as OpenAI's headers."""
        headers: dict[str, str] = {}
        for level in self.levels(now_s):
            headers[f"x-ratelimit-limit-{level.name}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{level.name}"] = str(level.left)
            headers[f"x-ratelimit-reset-{level.name}"] = format_reset(level.full_in_s)
        return headers

    def _check(self, wanted: list[tuple[Bucket, int]], now_s: float) -> None:
        """Raises: RateLimited that names the limit that takes longest."""
        if not wanted:
            return
        wait_s, bucket = max(
            ((bucket.wait_s(amount, now_s), bucket) for bucket, amount in wanted),
            key=lambda pair: pair[0],
        )
        if wait_s > 0:
            left = max(0, math.floor(bucket.level(now_s)))
            raise RateLimited(
                f"The key hr_{self._key_id} is limited to {bucket.limit} {bucket.name} per minute "
                f"and has {left} left, less than this request needs. Try again in "
                f"{math.ceil(wait_s)} s.",
                wait_s,
            )


class RateLimits:
    """The accounts of all keys, made at their first call."""

    def __init__(self) -> None:
        self._accounts: dict[str, KeyAccount] = {}

    def account(self, caller: Caller, now_s: float) -> KeyAccount | None:
        """The account of a caller; None when it has no limits."""
        if caller.key_id is None or caller.limits == KeyLimits():
            return None
        account = self._accounts.get(caller.key_id)
        if account is None:
            account = KeyAccount(caller.key_id, caller.limits, now_s)
            self._accounts[caller.key_id] = account
        return account


def format_reset(seconds: float) -> str:
    """A duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    return f"{minutes}m{math.ceil(rest_ms / 1000)}s"
