"""Forms of answers as grammars over tokens: the only place that knows llguidance.

In: forms, a model's vocabulary, chosen tokens. Out: masks of the tokens that may come next, and
whether an answer is complete. Everything is bounded: size and complexity of a grammar, work and
states of a mask, compiled grammars that are kept. Knows nothing of requests and steps.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from headrace.core.errors import InvalidGrammar
from headrace.core.structured_outputs import FRAMED, Form, StructuredOutputs
from headrace.ops.step_inputs import UInt32
from headrace.sampling.json_schema import SOME_WHITESPACE, read_schema
from headrace.text.tokenizer import Tokenizer

MAX_KEPT = 32
MAX_KEPT_BYTES = 1024 * 1024
"""Of the sources of compiled grammars. A compiled one takes 10 KB to some MB."""

_DIRECTIVE = "%llguidance"
_LIMITS = LLParserLimits(max_lexer_states=50_000, max_grammar_size=200_000, verbose_errors=False)
# Around a reason: where in the grammar that was made of a form, and its text.
_AROUND = re.compile(r"^(at )?\d+\(\d+\): |failed to compile JSON schema: |\n +1 \| (?s:.*)$")
MAX_REASON_CHARS = 400
_Key = tuple[Form, str, bool, str]


class GrammarCompiler:
    """Grammars of one vocabulary. Safe to share between threads but for `compute_masks`."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        # In two steps: each holds the interpreter for 0.3 s, and running answers go on between.
        tokens = LLTokenizer(
            TokenizerWrapper(_Vocabulary(tokenizer, vocab_size)),
            eos_token=sorted(i for i in tokenizer.eos_token_ids if i < vocab_size) or None,
            slices=[],
        )
        self._tokens = tokens.with_slices(LLTokenizer.general_slices())
        self.num_words = -(-vocab_size // 32)
        self.num_wide_words = -(-self._tokens.vocab_size // 32)  # a word more where EOS was missing
        self.end_words = np.zeros(self.num_wide_words, dtype=np.uint32)
        for token_id in self._tokens.eos_tokens:
            self.end_words[token_id // 32] |= np.uint32(1 << (token_id % 32))
        self.end_token_ids = frozenset(self._tokens.eos_tokens)
        self._executor = LLExecutor(1)
        self._kept: OrderedDict[_Key, LLMatcher] = OrderedDict()
        self._kept_bytes = 0
        self._lock = Lock()

    def compile(self, form: StructuredOutputs) -> LLMatcher:
        """A matcher at its start, that copies share what they learn of the grammar with.

        Raises: InvalidGrammar.
        """
        key = _key(form)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        matcher = self.compile_apart(form)
        self._check(matcher, form)
        self._keep(key, matcher)
        return matcher

    def compile_apart(self, form: StructuredOutputs) -> LLMatcher:
        """A matcher that shares nothing, and nothing that was kept of its form before.

        Raises: InvalidGrammar.
        """
        with self._lock:
            key = _key(form)
            if self._kept.pop(key, None) is not None:
                self._kept_bytes -= _num_bytes(key)
        return LLMatcher(self._tokens, _grammar_text(form), log_level=0, limits=_LIMITS)

    def open(
        self, form: StructuredOutputs, ignore_eos: bool, token_ids: Sequence[int] = ()
    ) -> GrammarRule:
        """The rule of an answer after `token_ids`. It is compiled with its first mask."""
        return GrammarRule(self, form, ignore_eos, token_ids)

    def compute_masks(self, rules: Sequence[GrammarRule]) -> None:
        """Give each rule the mask of its next token. Mutates: rules."""
        started = [(rule, matcher) for rule in rules if (matcher := rule.start()) is not None]
        if not started:
            return
        masks = np.zeros((len(started), self.num_wide_words), dtype=np.uint32)
        self._executor.unsafe_compute_mask_ptr(
            [(matcher, index) for index, (_, matcher) in enumerate(started)],
            masks.ctypes.data,
            self.num_wide_words * 4,
            len(started),
        )
        pairs = zip(started, masks, strict=True)
        again = [rule for (rule, _), mask in pairs if not rule.take_mask(mask)]
        self.compute_masks(again)

    def _keep(self, key: _Key, matcher: LLMatcher) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = matcher
            self._kept_bytes += _num_bytes(key)
            while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
                oldest, _ = self._kept.popitem(last=False)
                self._kept_bytes -= _num_bytes(oldest)

    def _check(self, matcher: LLMatcher, form: StructuredOutputs) -> None:
        """Refuse what is broken, and what no answer can satisfy. Raises: InvalidGrammar."""
        if matcher.is_error():
            raise InvalidGrammar(form.param, _reason(matcher, form))
        mask = np.zeros(self.num_wide_words, dtype=np.uint32)
        first = matcher.deep_copy()
        first.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if first.is_error():
            reason = _reason(first, form)
            is_dead_end = reason.startswith("NoExtension")
            raise InvalidGrammar(form.param, "no answer satisfies it." if is_dead_end else reason)
        if not (mask & ~self.end_words).any():
            raise InvalidGrammar(form.param, "it allows no text, or none but the empty one.")


class GrammarRule:
    """A LogitsRule: one answer's way through its grammar.

    Copies of a compiled grammar share its lexer, and its limits count what all of them did. An
    answer that meets a limit is therefore followed again from its first token, with a grammar of
    its own, so that whether it fails depends on the answer alone.
    """

    def __init__(
        self,
        compiler: GrammarCompiler,
        form: StructuredOutputs,
        ignore_eos: bool,
        token_ids: Sequence[int] = (),
    ) -> None:
        self._compiler = compiler
        self._form = form
        self._ignores_eos = ignore_eos
        self._work: Future[None] | None = None
        self._mask = np.zeros(compiler.num_words, dtype=np.uint32)
        self._matcher: LLMatcher | None = None
        self._is_apart = False
        self._token_ids = [i for i in token_ids if i not in compiler.end_token_ids]
        self.is_complete = False
        self.error: str | None = None

    def append(self, token_id: int) -> None:
        """See LogitsRule."""
        self._wait()
        if self._matcher is None or token_id in self._compiler.end_token_ids:
            return
        self._token_ids.append(token_id)
        if not self._matcher.consume_token(token_id) and self._matcher.is_error():
            # Now, not with the next mask: of an answer that is complete there is none.
            self._follow_again(self._matcher)
        self.is_complete = self.error is None and self._matcher.is_stopped()

    def mask(self) -> UInt32:
        """See LogitsRule."""
        self._wait()
        return self._mask

    def wait_for(self, work: Future[None]) -> None:
        """See LogitsRule."""
        self._work = work

    def start(self) -> LLMatcher | None:
        """Compile and catch up where needed; None when there is no mask to compute."""
        if self._matcher is None and self.error is None:
            try:
                if self._is_apart:
                    self._matcher = self._compiler.compile_apart(self._form)
                else:
                    self._matcher = self._compiler.compile(self._form).deep_copy()
                self._matcher.consume_tokens(self._token_ids)
            except InvalidGrammar as error:
                self._fail(error.message)
        return None if self.error is not None or self.is_complete else self._matcher

    def take_mask(self, mask: UInt32) -> bool:
        """The next mask was computed; False when it must be tried again."""
        if self._matcher is not None and self._matcher.is_error():
            return not self._goes_apart(self._matcher)
        if self._ignores_eos:
            mask = mask & ~self._compiler.end_words
        self._mask = mask[: self._compiler.num_words]
        return True

    def _follow_again(self, failed: LLMatcher) -> None:
        matcher = self.start() if self._goes_apart(failed) else None
        if matcher is not None and matcher.is_error():
            self._goes_apart(matcher)

    def _goes_apart(self, failed: LLMatcher) -> bool:
        """Whether the answer is to be followed with a grammar of its own; else it has failed."""
        if self._is_apart:
            reason = _reason(failed, self._form)
            self._fail(f"{self._form.param} could not be followed to its end: {reason}")
            return False
        self._is_apart, self._matcher = True, None
        return True

    def _fail(self, reason: str) -> None:
        self.error = reason
        self._mask = np.zeros_like(self._mask)

    def _wait(self) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            work.result()


class _Vocabulary:
    """What llguidance asks of a tokenizer. Control tokens have no place in a text."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        known = min(tokenizer.vocab_size, vocab_size)
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(known)]
        self.tokens += [b""] * (vocab_size - known)
        self.special_token_ids = sorted(i for i in tokenizer.special_token_ids if i < vocab_size)
        ends = [i for i in tokenizer.eos_token_ids if i < vocab_size]
        self.eos_token_id = min(ends, default=None)
        self.bos_token_id = None

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text inside another. Not asked for where text is not forced."""
        if not isinstance(text, str):
            raise TypeError("texts only")
        return self._tokenizer.encode_pieces((("", False), (text, False)))


def _key(form: StructuredOutputs) -> _Key:
    return form.form, form.source, form.disable_any_whitespace, form.frame


def _num_bytes(key: _Key) -> int:
    _, source, _, frame = key
    return len(source) + len(frame)


def _grammar_text(form: StructuredOutputs) -> str:
    """A form in llguidance's terms. Raises: InvalidGrammar."""
    try:
        text = _lark_text(form)
        if not form.frame:
            return _from_lark(text)
        inside = {"name": FRAMED, "lark_grammar": text}
        return json.dumps({"grammars": [{"lark_grammar": _unforced(form.frame)}, inside]})
    except ValueError as error:
        raise InvalidGrammar(form.param, _shorten(str(error))) from None


def _lark_text(form: StructuredOutputs) -> str:
    if form.form in ("json", "json_object"):
        return f"start: %json {_schema_text(form)}"
    if form.form == "choice":
        return f"start: {' | '.join(map(json.dumps, form.choice or ()))}"
    if form.form == "grammar":
        return _to_lark(form)
    regex = json.loads(LLMatcher.grammar_from_regex(form.source))
    return str(regex["grammars"][0]["lark_grammar"])


def _from_lark(text: str) -> str:
    return LLMatcher.grammar_from_lark(_unforced(text))


def _unforced(text: str) -> str:
    """Rules that leave it to the model how text that must come is cut into tokens.

    llguidance would cut it itself, all that must come, before each token: 6 us per character.
    """
    return f'{text}\n{_DIRECTIVE} {{"no_forcing": true}}'


def _schema_text(form: StructuredOutputs) -> str:
    if form.form == "json_object":
        schema: dict[str, object] = {"type": "object"}
    else:
        schema = read_schema(form.source, form.param)
    options: dict[str, object] = {"whitespace_pattern": SOME_WHITESPACE}
    if form.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    return json.dumps(schema | {"x-guidance": options}, allow_nan=False)


def _to_lark(form: StructuredOutputs) -> str:
    """Translate GBNF; Lark stays as it is. Raises: InvalidGrammar."""
    if any(line.lstrip().startswith(_DIRECTIVE) for line in form.source.splitlines()):
        raise InvalidGrammar(form.param, f"{_DIRECTIVE} is not open to grammars. Leave it out.")
    try:
        return any_to_lark(form.source)
    except RecursionError:
        raise InvalidGrammar(form.param, "it is nested too deeply.") from None
    except Exception as error:  # the translator has errors of its own, of no common kind
        raise InvalidGrammar(form.param, _shorten(str(error))) from None


def _reason(matcher: LLMatcher, form: StructuredOutputs) -> str:
    """What is wrong, in words about the form. A caller's grammar is quoted; what we made is not."""
    text = matcher.get_error().replace("\n<non-verbose/>", "")
    return _shorten(text if form.form == "grammar" else _AROUND.sub("", text))


def _shorten(text: str) -> str:
    text = text.strip()
    shown = text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 3] + "..."
    return shown if shown.endswith((".", "^")) else f"{shown}."
