"""What a caller asks for: prompt, sampling, limits. Checked on construction, frozen after."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any, Literal

from headrace.core.cache_control import CacheControl
from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.frozen import frozen
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.tracing import TraceContext

Pooling = Literal["last", "mean", "cls", "classify"]

MAX_LOGPROBS = 20
MAX_N = 128
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 4096
"""Of all stop strings of a request: each character is prepared once for every answer."""
MAX_STOP_TOKEN_IDS = 1024
"""Each new token is looked for among them."""
MAX_BAD_WORDS = 512
MAX_BAD_WORD_CHARS = 16_384
"""Of all together: every word is made into tokens, and looked for in every step."""
MAX_ALLOWED_TOKEN_IDS = 2**20
MAX_LOGIT_BIASES = 2**16
MAX_PATTERN_SIZE = 1024
"""Each new token is compared with as many before it."""

# Decimal digits only: `str.isdigit` also takes characters that `int` refuses.
_TOKEN_ID = re.compile(r"[0-9]{1,18}")


@frozen(kw_only=True)
class RepetitionDetection:
    """Ends an answer whose newest tokens are one pattern `min_count` times. Units: tokens.

    Patterns of `min_pattern_size` (0 is 1) to `max_pattern_size` are looked for; a
    `max_pattern_size` of 0 looks for none.
    Source: vLLM, sampling_params.RepetitionDetectionParams.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        largest = self.max_pattern_size
        self._check("max_pattern_size", largest, 0, MAX_PATTERN_SIZE)
        self._check("min_pattern_size", self.min_pattern_size, 0, largest, "max_pattern_size")
        self._check("min_count", self.min_count, 2 if largest else 0, 2**31 - 1)

    def _check(self, name: str, value: object, low: int, high: int, what: str = "") -> None:
        if type(value) is not int or not low <= value <= high:
            shown = f"{what} ({high})" if what else str(high)
            allowed = f"a whole number from {low} to {shown}"
            raise InvalidParameter(f"repetition_detection.{name}", value, allowed)


@frozen(kw_only=True)
class SamplingParams:
    """How tokens are chosen and when to stop. The defaults are the OpenAI API's.

    Fields:
        temperature: 0 is greedy. 0 to 2.
        top_k: keep the k most likely tokens; 0 or -1 keeps all.
        top_p, min_p, typical_p: nucleus, floor relative to the best token, locally typical.
        repetition_penalty: above 1 discourages tokens of prompt and output; 1 is off.
        presence_penalty, frequency_penalty: over the output; -2 to 2, 0 is off.
        logit_bias: token id -> number added to its logit, -100 to 100.
        allowed_token_ids: nothing else may be chosen. bad_words: texts that may not appear.
        seed: same seed, same answer, whatever the batch; None draws one. is_seed_drawn: who took
            the request in has drawn it, so that the same answer is promised to nobody.
        n: answers per prompt. logprobs: None, or how many beside the chosen one (0 to 20).
        stop: texts that end the answer. stop_token_ids: tokens that do.
        min_tokens: nothing ends the answer before. max_tokens: None is what the context leaves; 0
            reads the prompt alone, for its log-probabilities.
        structured_outputs: the form the answer must have; it ends when the form is complete.
        repetition_detection: ends the answer when it goes round in circles, from `min_tokens` on.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    min_tokens: int = 0
    max_tokens: int | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    return_token_ids: bool = False
    structured_outputs: StructuredOutputs | None = None
    repetition_detection: RepetitionDetection | None = None
    is_seed_drawn: bool = False

    def __post_init__(self) -> None:
        for name, allowed, is_allowed in _NUMBER_RULES:
            value = getattr(self, name)
            # Most parameters of most requests; None is one of those that may be None.
            if value is _DEFAULTS[name]:
                continue
            wants_int = name in _INTEGERS
            kind = int if wants_int else int | float
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if not is_number or not is_allowed(value):
                raise InvalidParameter(name, value, allowed)
        for name in _BOOLEANS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidParameter(name, getattr(self, name), "true or false")
        self._set_texts("stop", self.stop, MAX_STOP_STRINGS, MAX_STOP_CHARS)
        self._set_texts("bad_words", self.bad_words, MAX_BAD_WORDS, MAX_BAD_WORD_CHARS)
        self._set_token_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        if self.allowed_token_ids is not None:
            self._set_token_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
            if not self.allowed_token_ids:
                allowed = "at least one token id, or leave it out"
                raise InvalidParameter("allowed_token_ids", (), allowed)
        self._set_logit_bias()
        form = self.structured_outputs
        if form is not None and not isinstance(form, StructuredOutputs):
            raise InvalidParameter("structured_outputs", form, "a StructuredOutputs")
        repetition = self.repetition_detection
        if repetition is not None and not isinstance(repetition, RepetitionDetection):
            raise InvalidParameter("repetition_detection", repetition, "a RepetitionDetection")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            allowed = f"0 to max_tokens ({self.max_tokens})"
            raise InvalidParameter("min_tokens", self.min_tokens, allowed)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def is_repeatable(self) -> bool:
        """Whether the answer is promised to be the same again: greedy, or a seed was given."""
        return self.is_greedy or (self.seed is not None and not self.is_seed_drawn)

    def _set_texts(self, name: str, value: object, most: int, most_chars: int) -> None:
        if value == ():
            return
        texts = (value,) if name == "stop" and isinstance(value, str) else value
        is_list = isinstance(texts, Sequence) and not isinstance(texts, str | bytes)
        if is_list:
            _check_count(name, len(texts), most, "texts")  # type: ignore[arg-type]
        if not is_list or not all(isinstance(text, str) and text for text in texts):  # type: ignore[attr-defined]
            raise InvalidParameter(name, value, "a list of non-empty strings")
        _check_count(name, sum(map(len, texts)), most_chars, "characters")  # type: ignore[call-overload]
        object.__setattr__(self, name, tuple(texts))  # type: ignore[arg-type]

    def _set_token_ids(self, name: str, value: object, most: int) -> None:
        if value == ():
            return
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if is_list:
            _check_count(name, len(value), most, "token ids")  # type: ignore[arg-type]
        if not is_list or not all(type(token_id) is int and token_id >= 0 for token_id in value):  # type: ignore[attr-defined]
            raise InvalidParameter(name, value, "a list of token ids (integers, 0 or more)")
        object.__setattr__(self, name, tuple(dict.fromkeys(value)))  # type: ignore[call-overload]

    def _set_logit_bias(self) -> None:
        if self.logit_bias == {}:
            return
        bias: dict[int, float] = {}
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidParameter("logit_bias", self.logit_bias, "a map from token id to a number")
        _check_count("logit_bias", len(self.logit_bias), MAX_LOGIT_BIASES, "token ids")
        for key, value in self.logit_bias.items():
            is_id = type(key) is int or (isinstance(key, str) and bool(_TOKEN_ID.fullmatch(key)))
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_id or int(key) < 0 or not is_number or not -100 <= value <= 100:
                allowed = "token ids with numbers from -100 to 100"
                raise InvalidParameter("logit_bias", {key: value}, allowed)
            if int(key) in bias:
                raise InvalidParameter("logit_bias", {key: value}, "a token once")
            bias[int(key)] = float(value)
        object.__setattr__(self, "logit_bias", bias)


def _check_count(name: str, given: int, most: int, what: str) -> None:
    if given > most:
        raise RequestError(
            f"{name} has {given} {what}; allowed: at most {most}.", name, "invalid_value"
        )


_Rule = tuple[str, str, Callable[[Any], bool]]
_NUMBER_RULES: tuple[_Rule, ...] = (
    ("temperature", "0 to 2", lambda v: 0 <= v <= 2),
    ("top_p", "more than 0, at most 1", lambda v: 0 < v <= 1),
    # The engine keeps it in 32 bits.
    ("top_k", "-1 or 0 (all), or 1 to 2147483647", lambda v: -1 <= v < 2**31),
    ("min_p", "0 to 1", lambda v: 0 <= v <= 1),
    ("typical_p", "more than 0, at most 1", lambda v: 0 < v <= 1),
    # Logits are divided by it: with less they leave what floats of 32 bits can be.
    ("repetition_penalty", "0.01 to 10", lambda v: 0.01 <= v <= 10),
    ("presence_penalty", "-2 to 2", lambda v: -2 <= v <= 2),
    ("frequency_penalty", "-2 to 2", lambda v: -2 <= v <= 2),
    ("seed", "a signed 64-bit integer", lambda v: -(2**63) <= v < 2**63),
    ("n", f"1 to {MAX_N}", lambda v: 1 <= v <= MAX_N),
    ("logprobs", f"0 to {MAX_LOGPROBS}", lambda v: 0 <= v <= MAX_LOGPROBS),
    ("prompt_logprobs", f"0 to {MAX_LOGPROBS}", lambda v: 0 <= v <= MAX_LOGPROBS),
    ("min_tokens", "a whole number, 0 or more", lambda v: v >= 0),
    ("max_tokens", "a whole number, 0 or more", lambda v: v >= 0),
)
_INTEGERS = frozenset(
    {"seed", "logprobs", "prompt_logprobs", "max_tokens", "top_k", "n", "min_tokens"}
)


@frozen(kw_only=True)
class GenerateRequest:
    """One call of a caller: exactly one of `prompt` (text or token ids) and `messages`.

    `tenant` salts the prefix cache and comes from the key, never from the body; `cache_salt` only
    narrows it. `priority`: lower runs earlier. `is_background`: runs
    with what others leave; set by the server, never by a body. `return_prompt_text`
    asks for `prompt_text` and `prompt_tokens` in the first output. `default_max_tokens` is the
    answer's length where sampling names none; what the context leaves bounds it. `pooling` asks for
    a vector of the prompt in place of an answer: the last hidden state, the mean of all, or, of
    an encoder, the first one, or the outputs of its head. `second_text`, of an encoder too, makes a
    pair of the prompt.

    `call_id` names the call that it belongs to, for operators; `trace` is that call's span, for
    backends that ask others.

    `suffix` is what stands after the answer: the model fills in the middle.

    `prediction` is what the answer may be like: it makes the answer come faster where it is right,
    and never changes it.

    `task` is what the caller says that it is about; routing goes by it. `is_whole`: nobody sees the
    answer before its end, so that it may begin again elsewhere. `has_effects`: the answer is
    stored. `cache_control` is what the caller wants of kept answers.

    `cache_key`: requests with the same one are likely to begin alike; where several backends could
    answer, they go to the same.

    `num_call_answers`: those of all requests of its call, which are admitted together or not at
    all; 0 where it is the only one.

    `patience_s`: how long the caller waits; who would not start in it is refused at once.

    Of an answer to `messages`, calls of `tools` come apart from its text; `splits_reasoning` wants
    its reasoning apart too.
    """

    request_id: str
    model: str
    prompt: str | tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    splits_reasoning: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    truncate_prompt_tokens: int | None = None
    return_prompt_text: bool = False
    pooling: Pooling | None = None
    second_text: str | None = None
    suffix: str | None = None
    prediction: str | None = None
    default_max_tokens: int | None = None
    tenant: str = "default"
    cache_salt: str = ""
    priority: int = 0
    num_call_answers: int = 0
    patience_s: float | None = None
    is_background: bool = False
    call_id: str = ""
    trace: TraceContext | None = None
    task: str | None = None
    is_whole: bool = False
    has_effects: bool = False
    cache_control: CacheControl | None = None
    cache_key: str = ""


_DEFAULTS = {f.name: f.default for f in fields(SamplingParams)}
_BOOLEANS = tuple(f.name for f in fields(SamplingParams) if f.type == "bool")
