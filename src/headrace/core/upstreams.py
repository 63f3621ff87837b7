"""Another server that answers requests, as settings: where it is, what it serves, how patient.

In: values of a settings file. Out: a frozen record, checked. A key is named (`env:NAME`), never
given: no record holds a secret.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from headrace.core.config_checks import check_integer, check_number
from headrace.core.errors import ConfigError, InWords
from headrace.core.frozen import frozen

UpstreamKind = Literal["openai", "anthropic"]

# Only letters that environments allow; the text is shown in errors, so that no key may stand here.
_KEY_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_RETRIES = 10


@frozen(kw_only=True)
class UpstreamConfig:
    """A server that speaks OpenAI's API or Anthropic's.

    Fields:
        name: how errors, headers and the ledger call it.
        url: address of its API, such as `https://api.example.com/v1`.
        models: names of its models, as it knows them.
        kind: `openai` for chat completions and completions, `anthropic` for messages.
        api_key: `env:NAME`, the environment variable with the key; None sends none.
        provider: whose prices hold for its models; None is its name.
        max_model_len: longest prompt plus answer of its models, in tokens.
        connect_timeout_s: no connection by then is a failure.
        first_byte_timeout_s: so is no byte of an answer by then.
        idle_timeout_s: so is a stream that says nothing, not even a comment, for so long.
        max_retries: how often it is asked again when it failed before the answer began.
        max_retry_wait_s: a longer wait before the next try, asked for by `Retry-After` too, is a
            failure at once: another server may be faster.
        max_connections: open at a time; requests beyond that fail, as it is full.
        breaker_failures: so many failures in a row, and nothing is sent for a while.
        breaker_cooldown_s: how long, before one request finds out whether it is back.
        refuses: request fields that it does not take, such as `seed`; one that only makes an answer
            repeatable is left out, any other is refused by name.
    """

    name: str
    url: str
    models: tuple[str, ...]
    kind: UpstreamKind = "openai"
    api_key: str | None = None
    provider: str | None = None
    max_model_len: int = 131_072
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 120.0
    idle_timeout_s: float = 30.0
    max_retries: int = 2
    max_retry_wait_s: float = 10.0
    max_connections: int = 256
    breaker_failures: int = 5
    breaker_cooldown_s: float = 15.0
    refuses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"upstreams.{self.name}"
        if self.kind not in get_args(UpstreamKind):
            raise ConfigError(f"{where}.kind", self.kind, "one of openai, anthropic")
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"{where}.url", self.url, "an http or https address")
        for field, texts in (("models", self.models), ("refuses", self.refuses)):
            if not isinstance(texts, tuple) or not all(isinstance(t, str) and t for t in texts):
                raise ConfigError(f"{where}.{field}", texts, "a list of names")
        if len(set(self.models)) != len(self.models):
            raise ConfigError(f"{where}.models", self.models, "each name once")
        key = self.api_key
        if key is not None and not (isinstance(key, str) and _KEY_REFERENCE.fullmatch(key)):
            # Not shown: it may be the key itself.
            allowed = "env:NAME, the name of an environment variable that holds the key"
            raise ConfigError(f"{where}.api_key", InWords("no reference"), allowed)
        for field, least, most in _SECONDS:
            check_number(f"{where}.{field}", getattr(self, field), least, most)
        for field, low, high in _INTEGERS:
            check_integer(f"{where}.{field}", getattr(self, field), low, high)

    @property
    def charged_as(self) -> str:
        """The provider whose prices hold for its models."""
        return self.provider or self.name

    @property
    def key_variable(self) -> str | None:
        """The environment variable that holds the key."""
        return None if self.api_key is None else self.api_key.removeprefix("env:")


_SECONDS: tuple[tuple[str, float, float], ...] = (
    ("connect_timeout_s", 0.01, 3600),
    ("first_byte_timeout_s", 0.01, 2**20),
    ("idle_timeout_s", 0.01, 2**20),
    ("max_retry_wait_s", 0, 3600),
    ("breaker_cooldown_s", 0.01, 3600),
)
_INTEGERS = (
    ("max_model_len", 1, 2**24),
    ("max_retries", 0, MAX_RETRIES),
    ("max_connections", 1, 2**16),
    ("breaker_failures", 1, 10_000),
)
