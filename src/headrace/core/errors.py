"""The exception tree: what went wrong, as fields a program can read and a sentence a person can.

HeadraceError
|-- ConfigError            field, value, allowed, hint
|-- RequestError           the caller can mend it: 4xx
|   |-- InvalidParameter (UndeclaredTask), UnsupportedParameter, InvalidGrammar (param)
|   |-- ModelNotFound
|   |-- ContextTooLong     num_tokens, max_model_len
|   |-- TooManyAnswers     num_answers, max_num_answers
|   |-- NotAuthenticated, NotPermitted
|   |-- RateLimited        retry_after_s
|   |-- BudgetExceeded     budget
|   `-- BatchStopped       the batch of a line was cancelled, or its time is up
|-- CapacityError          full, draining, waking up: retry_after_s
|   `-- ServerStopping     the server ends
|-- ModelFileError         UnsupportedFormat, MissingTensor, DigestMismatch, QualityDrift
|-- ModelSourceError       a model could not be fetched: every source and why
|-- DiskFull               a download would not fit: needed and free bytes
|-- StoreError             the database cannot be opened, read or written
|   `-- FolderError        the folder of files cannot: full, gone, forbidden
|-- OutOfMemory            the plan does not fit: needed and available bytes
`-- BackendError           EngineStalled, EngineDied, InvalidLogits (rows); retryable, tokens_sent
    `-- UpstreamError      another server failed: upstream, status, retry_after_s
        |-- UpstreamTimeout    it said nothing in time
        `-- StreamBroken       its answer broke off or cannot be read
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence


class HeadraceError(Exception):
    """Base of every error that headrace raises on purpose."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


_DECIMAL = re.compile(r"\"?Decimal\('([^']*)'\)\"?")


def as_written(value: object) -> str:
    """A value of a settings file for people: as YAML has it, of exact numbers the digits alone."""
    if isinstance(value, str | bytes):
        return repr(value).removeprefix("b")
    shown = _in_json(value) if isinstance(value, bool | list | tuple | Mapping) else str(value)
    return _DECIMAL.sub(r"\1", shown)


class InWords(str):
    """What errors say of a value that nobody gave, without quotes: a record with no prompt."""

    __repr__ = str.__str__


class ConfigError(HeadraceError):
    """A setting is wrong: names the field, the value given, what is allowed and what to do."""

    def __init__(self, field: str, value: object, allowed: str, hint: str = "") -> None:
        self.field, self.value, self.allowed, self.hint = field, value, allowed, hint
        text = f"{field} is {as_written(value)}; allowed: {allowed}."
        super().__init__(f"{text} {hint}".rstrip())


class RequestError(HeadraceError):
    """The caller can mend it. `param` is the field at fault, where there is one."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        self.param, self.code = param, code
        super().__init__(message)


_MAX_SHOWN = 120


def _in_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, skipkeys=True, default=repr)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _beginning(value: object, room: list[int]) -> object:
    """As much of a value as the first characters of its text can show, never megabytes of it.

    Mutates: room, how many values may still be in it: each has a character at least.
    """
    room[0] -= 1
    if isinstance(value, str | bytes):
        return value[:_MAX_SHOWN]
    if isinstance(value, Mapping):
        shown: dict[object, object] = {}
        for key, member in value.items():
            if room[0] <= 0:
                break
            shown[_beginning(key, room)] = _beginning(member, room)
        return shown
    if type(value) in (list, tuple):
        parts: list[object] = []
        for member in value:  # type: ignore[attr-defined]
            if room[0] <= 0:
                break
            parts.append(_beginning(member, room))
        return parts if isinstance(value, list) else tuple(parts)
    return value


class InvalidParameter(RequestError):
    """A field has a wrong type, an impossible value, or contradicts another."""

    def __init__(self, param: str, value: object, allowed: str, hint: str = "") -> None:
        self.value, self.allowed, self.hint = value, allowed, hint
        super().__init__(self._told(param, repr), param, "invalid_value")

    @property
    def message_in_json(self) -> str:
        """The message for a caller who wrote JSON. A text alone keeps its single quotes."""
        return self._told(self.param, repr if isinstance(self.value, str) else _in_json)

    def _told(self, param: str | None, write: Callable[[object], str]) -> str:
        shown = write(_beginning(self.value, [_MAX_SHOWN]))
        if len(shown) > _MAX_SHOWN:
            shown = shown[: _MAX_SHOWN - 3] + "..."
        return f"{param} is {shown}; allowed: {self.allowed}. {self.hint}".rstrip()


class UndeclaredTask(InvalidParameter):
    """A call says that it is about a task that routing does not have; nothing counts under it."""


class UnsupportedParameter(RequestError):
    """A field is known and has an effect, but this server or model cannot honour it."""

    def __init__(self, param: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{param} is not supported: {reason}", param, "unsupported_parameter")


class InvalidGrammar(RequestError):
    """A schema, pattern or grammar that answers cannot be held to: broken, too large, too hard."""

    def __init__(self, param: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{param} cannot be enforced: {reason}", param, "invalid_grammar")


class ContextTooLong(RequestError):
    """Prompt, or prompt and wanted output, exceed the context. Units: tokens."""

    def __init__(
        self,
        num_tokens: int,
        max_model_len: int,
        max_tokens: int | None = None,
        param: str = "messages",
        hint: str = "",
        is_at_least: bool = False,
    ) -> None:
        """`is_at_least`: the prompt has that many tokens or more; nobody has counted them."""
        self.num_tokens, self.max_model_len, self.max_tokens = num_tokens, max_model_len, max_tokens
        wanted = "" if max_tokens is None else f" and asks for {max_tokens} more"
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens. The prompt has "
            f"{'at least ' * is_at_least}{num_tokens} tokens{wanted}. Shorten the prompt"
            f"{' or lower max_tokens' if max_tokens is not None else ''}.{hint and ' ' + hint}",
            param,
            "context_length_exceeded",
        )


class TooManyAnswers(RequestError):
    """A call asks for more answers at a time than the engine ever has room for."""

    def __init__(self, num_answers: int, max_num_answers: int, n: int = 1) -> None:
        """`num_answers` are those of all prompts of the call, `n` to each."""
        self.num_answers, self.max_num_answers = num_answers, max_num_answers
        is_one = n == num_answers
        given = f"n is {n}" if is_one else f"prompt and n ({n}) ask for {num_answers} answers"
        super().__init__(
            f"{given}; allowed: at most {max_num_answers} at a time, which is how many may run and "
            "wait here (engine.max_num_seqs and engine.max_waiting_requests). Send several "
            "requests.",
            "n" if is_one else "prompt",
            "invalid_value",
        )


class ModelNotFound(RequestError):
    """No such model here. `known` are names that would work."""

    def __init__(self, model: str, known: Sequence[str] = (), hint: str = "") -> None:
        self.model, self.known, self.hint = model, tuple(known), hint
        # What compares names is loaded when one is wrong.
        did_you_mean = importlib.import_module("headrace.core.near_names").did_you_mean
        every = f"Known: {', '.join(self.known)}." if self.known else ""
        parts = (f"The model {model!r} does not exist here.", did_you_mean(model, known), hint)
        text = " ".join(filter(None, (parts[0], parts[1] or every, parts[2])))
        super().__init__(text, "model", "model_not_found")


class NotAuthenticated(RequestError):
    """The key is missing or unknown."""


class NotPermitted(RequestError):
    """The key is valid but lacks the scope."""


class RateLimited(RequestError):
    """A limit of the key is used up. Units: seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, None, "rate_limit_exceeded")


class BudgetExceeded(RequestError):
    """The money of a budget is used up or held, or the model has no price. `budget` is its id."""

    def __init__(self, message: str, budget: str) -> None:
        self.budget = budget
        super().__init__(message, None, "insufficient_quota")


class BatchStopped(RequestError):
    """A line of a batch that was cancelled, or has expired, while it was answered."""

    def __init__(self, how: str) -> None:
        super().__init__(f"The batch was {how} while this line was answered.", None, f"batch_{how}")


class CapacityError(HeadraceError):
    """Full, draining or not ready yet. Units: seconds. `is_full`: the queue is, no more.

    `is_impatience`: who waits longer is taken; it says nothing of others.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float = 1.0,
        is_full: bool = True,
        is_impatience: bool = False,
    ) -> None:
        self.retry_after_s, self.is_full = retry_after_s, is_full
        self.is_impatience = is_impatience
        super().__init__(message)


class ServerStopping(CapacityError):
    """The server ends: it takes no more requests, and cuts off those that take too long."""

    code = "server_stopped"


class ModelFileError(HeadraceError):
    """A model file is damaged, hostile or not what it says."""


class UnsupportedFormat(ModelFileError):
    """A tensor format, file version or architecture that headrace does not read."""


class MissingTensor(ModelFileError):
    """The architecture wants a tensor that the file lacks."""

    def __init__(self, name: str, where: str) -> None:
        self.name, self.where = name, where
        super().__init__(f"{where} has no tensor {name!r}, which this architecture needs.")


class DigestMismatch(ModelFileError):
    """The bytes are not the bytes the catalogue names."""

    def __init__(self, path: str, expected: str, actual: str) -> None:
        self.path, self.expected, self.actual = path, expected, actual
        super().__init__(
            f"{path} has sha256 {actual}, expected {expected}. The file is damaged or was changed; "
            "remove it and pull the model again."
        )


class QualityDrift(ModelFileError):
    """A model says other things of its canary text than when its file was written.

    Units: nats per token, absolute; NaN where the model gives no numbers.
    """

    def __init__(self, mean: float, limit: float, worst: float, num_tokens: int) -> None:
        self.mean, self.limit, self.worst, self.num_tokens = mean, limit, worst, num_tokens
        super().__init__(
            f"The model drifts: over the {num_tokens} tokens of its canary text the "
            f"log-probabilities are {mean:.3f} nats from those stored in its file, {worst:.3f} at "
            f"most; allowed are {limit} on average. The file is damaged or computed wrongly here: "
            "fetch or quantize it again, or try --isa generic. --canary warn or off runs it anyway."
        )


class ModelSourceError(HeadraceError):
    """Every source failed. `attempts` holds (source, reason) in the order tried."""

    def __init__(self, model: str, attempts: Sequence[tuple[str, str]]) -> None:
        self.model, self.attempts = model, tuple(attempts)
        lines = "".join(f"\n  {source}: {reason}" for source, reason in self.attempts)
        super().__init__(f"{model!r} could not be fetched from any source:{lines}")


class DiskFull(HeadraceError):
    """A download would not fit on the disk. Units: bytes."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int) -> None:
        self.path, self.needed_bytes, self.free_bytes = path, needed_bytes, free_bytes
        super().__init__(
            f"{path} has {free_bytes} bytes free and {needed_bytes} are needed. "
            "Free some space, remove a model (headrace rm) or set HEADRACE_HOME to another disk."
        )


class StoreError(HeadraceError):
    """The database cannot be opened, read or written. `database` is its address, no password."""

    def __init__(self, database: str, reason: str) -> None:
        self.database, self.reason = database, reason
        super().__init__(f"The database {database} failed: {reason}")


class FolderError(StoreError):
    """The folder of callers' files cannot be read or written."""

    def __init__(self, folder: object, reason: str) -> None:
        super().__init__(str(folder), reason)
        self.args = (f"The folder of files {folder} failed: {reason}.",)


class OutOfMemory(HeadraceError):
    """The memory plan does not fit. Units: bytes."""

    def __init__(self, message: str, needed_bytes: int, available_bytes: int) -> None:
        self.needed_bytes, self.available_bytes = needed_bytes, available_bytes
        super().__init__(message)


class BackendError(HeadraceError):
    """What answers requests failed. `tokens_sent` were delivered before it did."""

    def __init__(self, message: str, retryable: bool = False, tokens_sent: int = 0) -> None:
        self.retryable, self.tokens_sent = retryable, tokens_sent
        super().__init__(message)


class EngineStalled(BackendError):
    """Requests run and no step ends."""


class EngineDied(BackendError):
    """The engine ended, and is not started again."""


class UpstreamError(BackendError):
    """Another server that answers requests refused, failed or cannot be reached.

    `status` is None where none came. `was_asked`: the request may have reached it, so that asking
    it again may cost twice. `num_in_doubt` tries brought nothing and may be billed all the same.
    Units: seconds.
    """

    def __init__(
        self,
        message: str,
        upstream: str,
        status: int | None = None,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        was_asked: bool = False,
        tokens_sent: int = 0,
    ) -> None:
        self.upstream, self.status = upstream, status
        self.retry_after_s, self.was_asked = retry_after_s, was_asked
        self.num_in_doubt = int(was_asked)
        super().__init__(message, retryable, tokens_sent)


class UpstreamTimeout(UpstreamError):
    """Another server said nothing for too long."""


class StreamBroken(UpstreamError):
    """The answer of another server broke off, or is not what its API says."""


class InvalidLogits(BackendError):
    """Rows of a step from which no token can be chosen: NaN, +inf, or every token banned."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        shown = ", ".join(str(row) for row in self.rows[:8]) + (
            ", ..." if len(self.rows) > 8 else ""
        )
        super().__init__(
            f"The logits of row {shown} hold NaN, +inf or nothing but -inf, so no token can be "
            "chosen. Either the weights are damaged, or mask and bias ban every token."
        )
