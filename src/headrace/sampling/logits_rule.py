"""LogitsRule: which tokens may come next, by those that came before. LogitsRules: those of a model.

In: forms that answers must have, chosen tokens. Out: masks over the vocabulary. Masks are computed
in a thread of their own from the moment a token is chosen, beside the next step's forward pass,
which needs them only at its end. The compiler of forms is imported with the first form.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

from headrace.core.errors import InvalidGrammar
from headrace.core.structured_outputs import StructuredOutputs
from headrace.ops.step_inputs import UInt32
from headrace.text.tokenizer import Tokenizer

_COMPILER = "headrace.sampling.grammar:GrammarCompiler"


class LogitsRule(Protocol):
    """One answer's rule. `append` and `mask` belong to the thread that runs the steps."""

    @property
    def is_complete(self) -> bool:
        """Whether the tokens so far are an answer that nothing may follow."""
        ...

    @property
    def error(self) -> str | None:
        """Why there is no next token; None while all is well."""
        ...

    def append(self, token_id: int) -> None:
        """A token was chosen."""
        ...

    def mask(self) -> UInt32:
        """Tokens that may come next; none after an error. Shapes: [ceil(V/32)], bit set = may."""
        ...

    def wait_for(self, work: Future[None]) -> None:
        """The next mask is there when this work is done."""
        ...


class LogitsRules:
    """Makes the rules of one model's answers. `check` may be called from any thread."""

    def __init__(self, tokenizer: Callable[[], Tokenizer], vocab_size: int) -> None:
        """`tokenizer` is asked for with the first form; `vocab_size` is the width of the logits."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = Lock()
        self._compiler: Any = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def is_open(self) -> bool:
        """Whether the compiler is loaded."""
        return self._compiler is not None

    def check(self, form: StructuredOutputs) -> None:
        """Compile a form, so that it is ready when its first answer starts.

        The first form of a model takes longer: it reads the vocabulary.
        Raises: InvalidGrammar.
        """
        self._open_compiler(form).compile(form)

    def open(
        self, form: StructuredOutputs, ignore_eos: bool = False, token_ids: Sequence[int] = ()
    ) -> LogitsRule:
        """The rule of an answer that begins, or that goes on after `token_ids`.

        It is compiled beside the step unless `check` has done it.
        """
        rule: LogitsRule = self._open_compiler(form).open(form, ignore_eos, token_ids)
        self.begin([rule])
        return rule

    def begin(self, rules: Sequence[LogitsRule]) -> None:
        """Compute the next masks of rules that a token was appended to, or that are new."""
        if not rules:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="headrace-grammar")
        future: Future[None] = self._pool.submit(self._compiler.compute_masks, rules)
        for rule in rules:
            rule.wait_for(future)

    def close(self) -> None:
        """End the thread. Nothing may be opened or begun after it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _open_compiler(self, form: StructuredOutputs) -> Any:
        with self._lock:
            if self._compiler is None:
                tokenizer = self._tokenizer()
                if not tokenizer.is_streamable:
                    reason = "this model's tokens have no bytes of their own."
                    raise InvalidGrammar(form.param, reason)
                module, _, name = _COMPILER.partition(":")
                compiler = getattr(importlib.import_module(module), name)
                self._compiler = compiler(tokenizer, self._vocab_size)
            return self._compiler
