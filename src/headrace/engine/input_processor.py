"""InputProcessor: a caller's request -> token ids and limits, or an error that says what is wrong.

In: GenerateRequest. Out: PreparedRequest, one RequestSpec per answer. Keeps nothing, so threads may
share it. Knows nothing of queues and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from headrace.core.engine_config import DraftAcceptance
from headrace.core.errors import (
    ContextTooLong,
    InvalidGrammar,
    InvalidParameter,
    RequestError,
    UnsupportedParameter,
)
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.answer_plan import AnswerPlanner, blame_part
from headrace.engine.seeds import derive_seed, resolve_seed
from headrace.sched.request_state import RequestSpec
from headrace.text.answer_parts import TEXT_ALONE, AnswerFormat
from headrace.text.chat_template import ChatTemplate, encode_chat
from headrace.text.infilling import infill_end_ids, infill_pieces
from headrace.text.tokenizer import Tokenizer


@frozen
class PreparedRequest:
    """A request as tokens. `sampling` is the caller's, with max_tokens resolved.

    `draft_acceptance` is named where its tokens depend on it.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    specs: tuple[RequestSpec, ...]
    return_prompt_text: bool = False
    answer_format: AnswerFormat = TEXT_ALONE
    num_truncated_tokens: int = 0
    call_id: str = ""
    draft_acceptance: DraftAcceptance | None = None


class InputProcessor:
    """Templates, tokenizes and checks, for one model. Units: `max_model_len` tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None,
        max_model_len: int,
        vocab_size: int | None = None,
        check_form: Callable[[StructuredOutputs], None] | None = None,
        draft_acceptance: DraftAcceptance = "same-noise",
    ) -> None:
        """`check_form` raises InvalidGrammar for forms that answers cannot be held to."""
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size or tokenizer.vocab_size
        self._check_form = check_form
        self._draft_acceptance = draft_acceptance
        self._planner = AnswerPlanner(
            tokenizer, None if chat_template is None else chat_template.source
        )

    def prepare(self, request: GenerateRequest, unique_id: str | None = None) -> PreparedRequest:
        """Turn a request into specs with ids `{unique_id}.{index}`, without an adapter.

        The first answer scores the prompt; the others can then reuse its KV blocks.
        Raises: RequestError and its kinds.
        """
        param, prompt, answer_format, num_truncated = self.encode(request, must_fit=True)
        sampling = self._limit(request, len(prompt), param)
        sampling = self._hold_to_form(request, sampling, answer_format)
        bad_words_ids = tuple(self._encode_bad_words(sampling))
        eos_token_ids = () if sampling.ignore_eos else self._end_token_ids(request)
        seed = resolve_seed(sampling.seed)
        unscored = replace(sampling, prompt_logprobs=None)
        predicted = self._encode_prediction(request)
        specs = tuple(
            RequestSpec(
                request_id=f"{unique_id or request.request_id}.{index}",
                prompt_token_ids=prompt,
                sampling=unscored if index else sampling,
                seed=derive_seed(seed, index),
                max_tokens=sampling.max_tokens or 1,
                eos_token_ids=eos_token_ids,
                bad_words_ids=bad_words_ids,
                priority=request.priority,
                is_background=request.is_background,
                tenant=request.tenant,
                cache_salt=request.cache_salt,
                pooling=request.pooling,
                predicted_token_ids=predicted,
            )
            for index in range(sampling.n)
        )
        return PreparedRequest(
            request.request_id,
            prompt,
            sampling,
            specs,
            request.return_prompt_text,
            answer_format,
            num_truncated,
            request.call_id,
            self._acceptance(request),
        )

    def _acceptance(self, request: GenerateRequest) -> DraftAcceptance | None:
        is_fixed = request.pooling is not None or request.sampling.is_repeatable
        is_rejection = self._draft_acceptance == "rejection" and not is_fixed
        return self._draft_acceptance if is_rejection else None

    def _hold_to_form(
        self, request: GenerateRequest, sampling: SamplingParams, answer_format: AnswerFormat
    ) -> SamplingParams:
        """Settle the form of the answers, and see that they can be held to it."""
        form = self._planner.held_form(request, answer_format)
        if form is None:
            return sampling
        if self._check_form is None:
            raise UnsupportedParameter("structured_outputs", "this engine checks no forms.")
        try:
            self._check_form(form)
        except InvalidGrammar as error:
            if form is not sampling.structured_outputs:
                blame_part(request, error, self._check_form)
            raise
        return replace(sampling, structured_outputs=form)

    def encode(
        self, request: GenerateRequest, *, must_fit: bool = False
    ) -> tuple[str, tuple[int, ...], AnswerFormat, int]:
        """The field a prompt comes from, its token ids, however many, what answers have.

        Last, how many tokens were cut off because the request asks for it. With `must_fit` a text
        that is far too long for the model is refused before it is made into tokens.
        Raises: RequestError and its kinds.
        """
        is_cut = request.truncate_prompt_tokens is not None
        param, prompt = self._encode(request, must_fit and not is_cut)
        whole, prompt = prompt, self._truncate(request, prompt)
        self._check_token_ids(request.sampling, param, prompt)
        answer_format = self._planner.answer_format(request, prompt)
        return param, prompt, answer_format, len(whole) - len(prompt)

    def _encode(self, request: GenerateRequest, must_fit: bool) -> tuple[str, tuple[int, ...]]:
        """Tokenize whichever of prompt and messages is there; also name it."""
        self._refuse_encoder_wishes(request)
        if (request.prompt is None) == (request.messages is None):
            given = "missing" if request.prompt is None else "given"
            raise RequestError(f"prompt and messages are both {given}; give one of them.", "prompt")

        def check(param: str, text: str) -> None:
            if must_fit and len(text) >= self._max_model_len:
                self._refuse_far_too_long(request, param, text)

        if request.messages is not None:
            return "messages", tuple(
                encode_chat(
                    self._tokenizer,
                    self._chat_template,
                    request.messages,
                    request.tools if request.tool_choice.mode != "none" else (),
                    add_generation_prompt=request.add_generation_prompt,
                    continue_final_message=request.continue_final_message,
                    kwargs=request.chat_template_kwargs,
                    check_text=partial(check, "messages"),
                )
            )
        if isinstance(request.prompt, str):
            check("prompt", request.prompt + (request.suffix or ""))
        if request.suffix is not None:
            return "prompt", self._encode_around(request, request.suffix)
        if isinstance(request.prompt, str):
            # A bare prompt is the whole input and may name control tokens, as for code infilling.
            prompt: Iterable[int] = self._tokenizer.encode(
                request.prompt, request.add_special_tokens, parse_special=True
            )
        else:
            prompt = request.prompt or ()
        prompt = tuple(prompt)
        if not prompt:
            raise InvalidParameter("prompt", request.prompt, "at least one token")
        return "prompt", prompt

    def _encode_around(self, request: GenerateRequest, after: str) -> tuple[int, ...]:
        """Ask for what stands between the prompt and another text; neither has control tokens."""
        if not isinstance(request.prompt, str):
            raise InvalidParameter("suffix", after, "none where the prompt is not a text")
        if request.truncate_prompt_tokens is not None:
            cut = request.truncate_prompt_tokens
            raise InvalidParameter("truncate_prompt_tokens", cut, "none together with suffix")
        pieces = infill_pieces(request.prompt, after, self._tokenizer.id_of)
        if pieces is None:
            reason = "this model has no tokens for filling in the middle. Leave it out."
            raise UnsupportedParameter("suffix", reason)
        adds_bos = request.add_special_tokens and self._tokenizer.adds_bos
        begin = (self._tokenizer.bos_token_id or 0,) if adds_bos else ()
        return (*begin, *self._tokenizer.encode_pieces(pieces))

    def _end_token_ids(self, request: GenerateRequest) -> tuple[int, ...]:
        ends = self._tokenizer.eos_token_ids
        if request.suffix is not None:
            ends |= infill_end_ids(self._tokenizer.id_of)
        # A model's files may name tokens that it has no logits for; it never says those.
        return tuple(sorted(i for i in ends if 0 <= i < self._vocab_size))

    @staticmethod
    def _refuse_encoder_wishes(request: GenerateRequest) -> None:
        """What only an encoder does."""
        if request.second_text is not None:
            raise UnsupportedParameter("second_text", "this model reads no pairs of texts.")
        if request.pooling in ("cls", "classify"):
            raise InvalidParameter("pooling", request.pooling, "last or mean, of this model")

    def _truncate(self, request: GenerateRequest, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Keep the end of the prompt, only when asked; -1 keeps as much as fits."""
        keep = request.truncate_prompt_tokens
        if keep is None:
            return prompt
        if keep == -1 and type(keep) is int:
            room = self._room(request, len(prompt))
            return prompt[-max(1, self._max_model_len - room) :]
        if type(keep) is not int or not 1 <= keep < self._max_model_len:
            allowed = f"1 to {self._max_model_len - 1} tokens, or -1 for all that fit"
            raise InvalidParameter("truncate_prompt_tokens", keep, allowed)
        return prompt[-keep:]

    def _room(self, request: GenerateRequest, num_prompt_tokens: int) -> int:
        """Tokens that are kept free for the answer when its prompt is cut to what fits.

        A default length is an upper bound: it takes no more than half of the context.
        Raises: InvalidParameter where the prompt is too long and no length is known.
        """
        sampling, default = request.sampling, request.default_max_tokens
        if sampling.max_tokens is not None:
            return max(1, sampling.max_tokens)
        if default is not None:
            return max(sampling.min_tokens, min(default, self._max_model_len // 2))
        if num_prompt_tokens >= self._max_model_len:
            raise InvalidParameter(
                "truncate_prompt_tokens",
                -1,
                "-1 together with max_tokens",
                f"The prompt has {num_prompt_tokens} tokens, the context {self._max_model_len}, "
                "and nothing says how many are to be left for the answer.",
            )
        return 1

    def _check_token_ids(
        self, sampling: SamplingParams, param: str, prompt: tuple[int, ...]
    ) -> None:
        for name, token_ids in (
            (param, prompt),
            ("logit_bias", sampling.logit_bias),
            ("allowed_token_ids", sampling.allowed_token_ids or ()),
            ("stop_token_ids", sampling.stop_token_ids),
        ):
            for token_id in token_ids:
                if type(token_id) is not int or not 0 <= token_id < self._vocab_size:
                    bias = sampling.logit_bias
                    given = {token_id: bias[token_id]} if name == "logit_bias" else token_id
                    raise InvalidParameter(
                        name, given, f"token ids of this model, 0 to {self._vocab_size - 1}"
                    )

    def _refuse_far_too_long(self, request: GenerateRequest, param: str, text: str) -> None:
        """Raises: ContextTooLong for a text that cannot fit, whatever its tokens are."""
        fewest = self._tokenizer.fewest_tokens(text, self._max_model_len)
        if fewest >= self._max_model_len:
            raise self._too_long(request, fewest, param, is_at_least=True)

    def _too_long(
        self, request: GenerateRequest, num_tokens: int, param: str, is_at_least: bool = False
    ) -> ContextTooLong:
        most = self._max_model_len
        hint = f"Or set truncate_prompt_tokens (1 to {most - 1}) to keep the end of it."
        hint = "" if request.pooling is None else hint
        return ContextTooLong(num_tokens, most, param=param, hint=hint, is_at_least=is_at_least)

    def _limit(
        self, request: GenerateRequest, num_prompt_tokens: int, param: str
    ) -> SamplingParams:
        """Resolve max_tokens against the context; None is the default, or all that is left."""
        sampling = request.sampling
        num_left = self._max_model_len - num_prompt_tokens
        if num_left < 1:
            raise self._too_long(request, num_prompt_tokens, param)
        if sampling.max_tokens is None:
            if sampling.min_tokens > num_left:
                raise InvalidParameter(
                    "min_tokens", sampling.min_tokens, f"0 to {num_left}, what the context leaves"
                )
            default = num_left if request.default_max_tokens is None else request.default_max_tokens
            max_tokens = max(min(default, num_left), sampling.min_tokens)
            return replace(sampling, max_tokens=max_tokens)
        if sampling.max_tokens > num_left:
            raise ContextTooLong(
                num_prompt_tokens, self._max_model_len, sampling.max_tokens, param="max_tokens"
            )
        return sampling

    def _encode_prediction(self, request: GenerateRequest) -> tuple[int, ...]:
        """What may be said, as it is said: as a text inside another. No answer is longer."""
        if request.prediction is None:
            return ()
        token_ids = self._tokenizer.encode_pieces((("", False), (request.prediction, False)))
        return tuple(token_ids[: self._max_model_len])

    def _encode_bad_words(self, sampling: SamplingParams) -> Iterable[tuple[int, ...]]:
        """Spell each word as it is inside a text: with and without a space before it.

        Source: vLLM, `SamplingParams.update_from_tokenizer`.
        """
        spellings: dict[tuple[int, ...], None] = {}
        for word in sampling.bad_words:
            for text in (word, f" {word.lstrip()}"):
                token_ids = self._tokenizer.encode_pieces((("", False), (text, False)))
                if not token_ids:
                    raise InvalidParameter("bad_words", word, "words that have tokens")
                spellings[tuple(token_ids)] = None
        return spellings
