"""A tokenizer of those tokens only that the texts at hand can contain.

Owns a growing part of a vocabulary. Building a tokenizer from a whole one takes half a second and
holds the interpreter; a start with a short prompt needs some hundred tokens of it. In: an index, a
tokenizer without vocabulary, texts. Out: views that give for these texts the whole one's ids.

Why they are the same: merging the characters of a word asks only for tokens that are substrings of
the word, and for the merges that make them. A part that has all of these, with their ids and in
their order, gives the same answers. The words come from the library itself, in a first pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from threading import Lock
from typing import Any

from tokenizers import Tokenizer, models

from headrace.text.token_bytes import BYTE_PIECES
from headrace.text.tokenizer_views import TokenizerViews, views_of, with_model
from headrace.text.vocabulary_index import VocabularyIndex, index_vocabulary

SPACE_PIECE = "▁"
MAX_CHARS = 4096
"""Of all texts together; for more the whole tokenizer is loaded, which then is worth its time."""

_LINE_BYTES = 16384
_MAX_TOKEN_CHARS = 512
"""Of the longest token: every part of a word up to it is looked up. Known ones have 128."""

_MODEL_RULES = ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")


def split_tokenizer(whole: Tokenizer) -> bytes:
    """What a PartialTokenizer reads: everything but the vocabulary as a JSON line, then the index.

    `whole` is byte-pair merging without word prefixes or suffixes, as GGUF files have it.
    """
    frame = json.loads(whole.to_str())
    merges = frame["model"].pop("merges")
    index = index_vocabulary(frame["model"].pop("vocab"), merges)
    return json.dumps(frame).encode() + b"\n" + index


def cut_line(content: memoryview) -> tuple[bytes, memoryview]:
    """The first line, and what is behind it, which is not copied."""
    size = _LINE_BYTES
    while (end := bytes(content[:size]).find(b"\n")) < 0 and size < len(content):
        size *= 4
    end = len(content) if end < 0 else end
    return bytes(content[:end]), content[end + 1 :]


class PartialTokenizer:
    """Grows by the texts it is asked about. Safe to share between threads."""

    def __init__(self, body: bytes | memoryview, load_whole: Callable[[], Tokenizer]) -> None:
        """`body` is what `split_tokenizer` gave, unharmed."""
        frame, index = cut_line(memoryview(body))
        self._index = VocabularyIndex(index)
        self._load_whole = load_whole
        self._lock = Lock()
        self._num_chars = MAX_CHARS if self._index.max_chars > _MAX_TOKEN_CHARS else 0
        self._is_whole = False
        self._ids: dict[str, int] = {}
        self._merges: dict[int, tuple[str, str]] = {}
        self._known_words: set[str] = set()
        parts: dict[str, Any] = json.loads(frame)
        self._rules = {name: parts["model"][name] for name in _MODEL_RULES}
        always = [token["content"] for token in parts["added_tokens"]]
        always += [*BYTE_PIECES, SPACE_PIECE, self._rules["unk_token"] or ""]
        self._take(always)
        parts["model"] |= {"vocab": self._ids, "merges": []}
        self._frame = Tokenizer.from_str(json.dumps(parts))
        self._renew()

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        token_id: int | None = self._frame.token_to_id(token)
        return self._index.id_of(token) if token_id is None else token_id

    def token_of(self, token_id: int) -> str | None:
        """The token of an id."""
        # The frame first: an added token may be spelled in another way than in the vocabulary.
        token: str | None = self._frame.id_to_token(token_id)
        return self._index.token_of(token_id) if token is None else token

    def views_for(self, texts: Sequence[str]) -> TokenizerViews:
        """Views that are right for these texts."""
        with self._lock:
            self._num_chars += sum(map(len, texts))
            if self._num_chars > MAX_CHARS and not self._is_whole:
                self._views = views_of(self._load_whole())
                self._is_whole = True
            if not self._is_whole:
                self._grow(texts)
            return self._views

    def _grow(self, texts: Sequence[str]) -> None:
        # Characters first: a word is read from the tokens that it falls into.
        if self._take(set().union(*texts)):
            self._renew()
        words = {word for text in texts for word in self._words(text)} - self._known_words
        self._known_words |= words
        if self._take(part for word in words for part in self._substrings(word)):
            self._renew()

    def _words(self, text: str) -> Iterator[str]:
        """What merging sees of a text, in each view: runs of tokens that no merge joins further."""
        for view in set(self._views):
            encoding = view.encode(text, add_special_tokens=False)
            pairs = zip(encoding.word_ids, encoding.tokens, strict=True)
            for _, run in groupby(pairs, key=lambda pair: pair[0]):
                yield "".join(token for _, token in run)

    def _substrings(self, word: str) -> Iterator[str]:
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + self._index.max_chars) + 1):
                yield word[start:end]

    def _take(self, texts: Iterable[str]) -> bool:
        """Add those of the texts that are tokens, and what makes them. True when there are any."""
        size = len(self._ids)
        for text in texts:
            token_id = None if text in self._ids else self._index.id_of(text)
            if token_id is not None:
                self._ids[text] = token_id
                for rank, left, right in self._index.merges_of(token_id):
                    self._merges[rank] = (left, right)
        return len(self._ids) > size

    def _renew(self) -> None:
        # A merge of a part that no text has so far cannot happen, and the library refuses it.
        ranked = (self._merges[rank] for rank in sorted(self._merges))
        merges = [pair for pair in ranked if pair[0] in self._ids and pair[1] in self._ids]
        model = models.BPE(vocab=self._ids, merges=merges, **self._rules)
        self._views = views_of(with_model(self._frame, model))
