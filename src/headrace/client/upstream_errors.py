"""UpstreamWords: what went wrong at an upstream, in the errors of `core`.

In: statuses and bodies of its answers, reasons of broken connections. Out: RequestErrors where the
caller can mend it, UpstreamErrors where only the operator or time can. Takes the key out of
whatever the upstream says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headrace.core.errors import (
    HeadraceError,
    RequestError,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
)

MAX_SHOWN = 400
# What the caller sent is at fault. Keys, names of models and money are the operator's.
_CALLER_FAULTS = frozenset({400, 413, 422})
_OPERATOR_FAULTS = frozenset({401, 402, 403})
_PASSING = frozenset({408, 409, 425, 429})
# Keys this short would be found in any text.
_MIN_KEY_LENGTH = 6


class UpstreamWords:
    """Names the upstream in each error, and never its key."""

    def __init__(self, name: str, key: str | None) -> None:
        self._name, self._key = name, key or ""

    def error(
        self,
        reason: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        was_asked: bool = False,
    ) -> UpstreamError:
        """It failed, or cannot be asked."""
        return UpstreamError(
            self._sentence(reason),
            self._name,
            status,
            retryable=retryable,
            retry_after_s=retry_after_s,
            was_asked=was_asked,
        )

    def timeout(self, reason: str, was_asked: bool) -> UpstreamTimeout:
        """It said nothing for too long."""
        return UpstreamTimeout(
            self._sentence(reason), self._name, retryable=True, was_asked=was_asked
        )

    def broken(self, reason: str) -> StreamBroken:
        """Its answer broke off, or cannot be read."""
        return StreamBroken(self._sentence(reason), self._name, retryable=True, was_asked=True)

    def refusal(self, status: int, body: str, retry_after_s: float | None) -> HeadraceError:
        """What a status other than 200 means."""
        message, param, code = _read_body(body)
        shown = self._clean(message)
        if status in _CALLER_FAULTS:
            text = shown or f"The upstream {self._name} refused the request with status {status}."
            return RequestError(text, param, code)
        # What is said of a key or an account is for nobody but its owner.
        said = f": {shown}" if shown and status not in _OPERATOR_FAULTS else ""
        return self.error(
            f"answered with status {status}{said}",
            status=status,
            retryable=status in _PASSING or status >= 500,
            retry_after_s=retry_after_s,
        )

    def _sentence(self, reason: str) -> str:
        return f"The upstream {self._name} {self._clean(reason).rstrip('.')}."

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        if len(self._key) >= _MIN_KEY_LENGTH:
            text = text.replace(self._key, "***")
        return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _read_body(body: str) -> tuple[str, str | None, str | None]:
    """Message, field and code of an error body; those of Anthropic name neither of the last two."""
    try:
        tree: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", None, None
    error = tree.get("error") if isinstance(tree, Mapping) else None
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, Mapping):
        error = tree if isinstance(tree, Mapping) else {}
    message, param, code = (error.get(name) for name in ("message", "param", "code"))
    return (
        message if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )
