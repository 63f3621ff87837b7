"""SemanticCache: which kept answer belongs to a question that means the same.

In: requests, vectors of their last messages. Out: an answer of the ResponseCache, and how alike the
questions are. Everything but the last message has to be equal, and what vectors hardly tell apart
has to fit (`question_marks`). Bounded; the least recently used goes first.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from headrace.core.errors import HeadraceError
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing_options import SemanticConfig
from headrace.router.question_marks import Marks, read_marks
from headrace.router.response_cache import ResponseCache

_log = logging.getLogger(__name__)

# So many of the nearest are looked at; the others differ from the question more.
NUM_NEAREST = 4


class TextIndex(Protocol):
    """Vectors of texts, and which of them are near. A scope's are apart from all others."""

    async def vector(self, text: str) -> Any:
        """What `nearest` and `add` take. Raises: HeadraceError."""
        ...

    def nearest(self, scope: str, vector: Any, limit: int) -> Sequence[tuple[str, float]]:
        """Keys of a scope with their cosines, the nearest first."""
        ...

    def add(self, scope: str, key: str, vector: Any) -> None:
        """Keep a vector; of a key that is known it is the new one."""
        ...

    def remove(self, scope: str, key: str) -> None:
        """Forget one that was added."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@frozen
class Question:
    """The last message of a request; `scope` is all that is around it."""

    scope: str
    marks: Marks
    vector: Any


class SemanticCache:
    """Belongs to one event loop, beside the cache that holds the answers."""

    def __init__(self, config: SemanticConfig, cache: ResponseCache, index: TextIndex) -> None:
        self._config, self._cache, self._index = config, cache, index
        # Key -> question, the least recently used first.
        self._questions: OrderedDict[str, Question] = OrderedDict()

    def __len__(self) -> int:
        return len(self._questions)

    async def read(self, request: GenerateRequest) -> Question | None:
        """A request's question; None where it has none that can be compared."""
        split = split_question(request)
        if split is None:
            return None
        text, rest = split
        if (
            not text.strip()
            or len(text.encode("utf-8", "replace")) > self._config.max_question_bytes
        ):
            return None
        scope = self._cache.key_of(rest)
        if scope is None:
            return None
        try:
            vector = await self._index.vector(text)
        except HeadraceError as error:
            _log.warning("a question is not compared with others: %s", error)
            return None
        return Question(scope, read_marks(text), vector)

    def find(
        self, question: Question, request: GenerateRequest
    ) -> tuple[RequestOutput, float] | None:
        """An answer that is young enough, and its question's similarity."""
        near = self._index.nearest(question.scope, question.vector, NUM_NEAREST)
        for key, similarity in near:
            if similarity < self._config.min_similarity:
                return None
            known = self._questions.get(key)
            if known is None or not known.marks.fits(question.marks):
                continue
            answer = self._cache.find(key, request)
            if answer is not None:
                self._questions.move_to_end(key)
                # With that seed this question would have another answer.
                return replace(answer, seed=None), similarity
            if not self._cache.has(key):
                self._drop(key)
        return None

    def keep(self, question: Question, key: str) -> None:
        """The answer of this key belongs to a question."""
        self._questions[key] = question
        self._questions.move_to_end(key)
        self._index.add(question.scope, key, question.vector)
        while len(self._questions) > self._config.max_entries:
            self._drop(next(iter(self._questions)))

    def _drop(self, key: str) -> None:
        question = self._questions.pop(key)
        self._index.remove(question.scope, key)


def split_question(request: GenerateRequest) -> tuple[str, GenerateRequest] | None:
    """The last message, and the request without it; None where it is not the caller's."""
    if request.messages is not None:
        *before, last = request.messages
        if last.role != "user" or not last.content:
            return None
        return last.content, replace(request, messages=(*before, replace(last, content="")))
    if isinstance(request.prompt, str) and request.suffix is None and request.prompt:
        return request.prompt, replace(request, prompt="")
    return None
