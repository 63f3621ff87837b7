"""Tokenizer: text to token ids and back, for one model.

In: text, and whose it is. Out: ids; exact bytes of ids. Two views of one vocabulary share the
merges: `parse_special` reads control tokens in the text, as a rendered template needs; the other
never makes one, whatever the text says. Knows nothing of requests and templates. Safe to share
between threads: nothing changes after construction but a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer as Backend

from headrace.core.errors import InvalidParameter, ModelFileError, RequestError
from headrace.text.control_text import ControlTexts
from headrace.text.gguf_tokenizer import build_gguf_tokenizer
from headrace.text.gguf_vocabulary import read_gguf_vocabulary
from headrace.text.input_encoder import InputEncoder, check_unicode
from headrace.text.partial_tokenizer import MAX_CHARS, PartialTokenizer
from headrace.text.token_bound import TokenBound
from headrace.text.token_bytes import Spelling, spelling_of
from headrace.text.tokenizer_cache import load_cached, load_parts, store_cached, store_parts
from headrace.text.tokenizer_facts import (
    TokenizerFacts,
    end_token_ids,
    folder_facts,
    gguf_facts,
)
from headrace.text.tokenizer_faults import check_growth, text_fault, tokenizer_faults
from headrace.text.tokenizer_views import TokenizerViews, WholeTokenizer, tokenizer_parts

# A control token that swallows the whitespace around it, as in some tokenizer.json files.
_Strips = tuple[bool, bool]


class Tokenizer:
    """One model's tokenizer.

    Fields:
        vocab_size: ids go from 0 to it; some may stand for nothing.
        bos_token_id, eos_token_ids: eos_token_ids holds every token that ends an answer.
        special_token_ids: control tokens; `skip_special_tokens` leaves them out.
        control_texts: their texts. special_tokens: what templates call them, such as bos_token.
        adds_bos: whether a prompt begins with BOS when special tokens are added.
        is_streamable: whether tokens have bytes of their own (all but WordPiece and its like).
    """

    def __init__(self, source: Backend | PartialTokenizer, facts: TokenizerFacts) -> None:
        self._source = WholeTokenizer(source) if isinstance(source, Backend) else source
        backend = self._source.views_for(("a",)).special_aware
        added = backend.get_added_tokens_decoder()
        self._added = {i: token.content for i, token in added.items()}
        self._strips = {t.content: (t.lstrip, t.rstrip) for t in added.values() if t.special}
        self.special_token_ids = frozenset(i for i, token in added.items() if token.special)
        self.control_texts = ControlTexts(tuple(self._strips))
        self.vocab_size = facts.vocab_size or max(
            backend.get_vocab_size(), 1 + max(self._added, default=0)
        )
        self.special_tokens = dict(facts.special_tokens)
        self.chat_template = facts.chat_template
        bos_token = facts.special_tokens.get("bos_token")
        self.bos_token_id = None if bos_token is None else self.id_of(bos_token)
        self.eos_token_ids = end_token_ids(facts, self.id_of, self.special_token_ids)
        self._spelling = spelling_of(tokenizer_parts(backend)["decoder"])
        self._bytes: dict[int, bytes] = {}
        self._bound: TokenBound | None = None
        self.is_streamable = self._spelling is not Spelling.OPAQUE
        start = self.encode("")
        self.adds_bos = self.bos_token_id is not None and start[:1] == [self.bos_token_id]
        first = self.encode("a", add_special_tokens=False)
        self._has_prefix_space = (
            self.is_streamable and bool(first) and self.token_bytes(first[0]).startswith(b" ")
        )

    @staticmethod
    def from_huggingface(folder: Path) -> Tokenizer:
        """Read tokenizer.json and the files beside it.

        Raises: ModelFileError.
        """
        backend = open_tokenizer_json(folder)
        facts = folder_facts(folder)
        try:
            return Tokenizer(backend, facts)
        except RequestError as error:  # it encodes two texts to know itself
            raise _no_tokenizer(folder / "tokenizer.json", str(error.__cause__)) from error

    @staticmethod
    def from_gguf(
        metadata: Mapping[str, object],
        cache_dir: Path | None = None,
        cache_key: str | None = None,
        is_partial: bool = False,
    ) -> Tokenizer:
        """Build from `tokenizer.*` keys, or take what an earlier start built for the same key.

        `cache_key` names the metadata's content: its digest. `is_partial` is for few short texts:
        it starts at once and loads what they need, from the cache.
        Raises: UnsupportedFormat, ModelFileError.
        """
        if cache_dir is None or cache_key is None:
            return Tokenizer(*_build(metadata))
        load_whole = partial(_load_or_build, metadata, cache_dir, cache_key)
        if not is_partial:
            return Tokenizer(*load_whole())
        parts = load_parts(cache_dir, cache_key, lambda: load_whole()[0])
        if parts is not None:
            return Tokenizer(*parts)
        backend, facts = load_whole()
        store_parts(cache_dir, cache_key, backend, facts)
        return Tokenizer(backend, facts)

    def encode(
        self, text: str, add_special_tokens: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        `add_special_tokens` adds what the model's prompts begin or end with. `parse_special` turns
        the texts of control tokens into them; without it they are text like any other.
        Raises: RequestError for text that is not Unicode (unpaired surrogates).
        """
        views = self._views_for((text,))
        backend = views.special_aware if parse_special else views.plain
        return _encode(backend, text, add_special_tokens)

    def fewest_tokens(self, text: str, enough: int | None = None) -> int:
        """A number of tokens that a long text has at least, found without making them.

        Looks no further than to `enough`.

        The first call takes longer: it reads the vocabulary, the whole of it.
        Raises: RequestError for text that is not Unicode.
        """
        if len(text) <= MAX_CHARS:
            return 0
        if self._bound is None:
            self._bound = TokenBound(self._views_for((text,)).special_aware, self._spelling)
        return self._bound.fewest_tokens(text, enough)

    @property
    def input_encoder(self) -> InputEncoder:
        """The same tokenizer for texts and pairs of texts that an encoder reads."""
        return InputEncoder(self._views_for(()).special_aware)

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of a text given as (text, is a control token) pieces, without BOS or EOS.

        What is not marked as a control token never becomes one. Control tokens cut the text as they
        do in `encode(..., parse_special=True)`.
        """
        ids: list[int] = []
        views = self._views_for([text for text, _ in pieces])
        for at, (text, is_control) in enumerate(pieces):
            token_id = self.id_of(text) if is_control else None
            if token_id is not None:
                ids.append(token_id)
                continue
            if at and self._strips.get(pieces[at - 1][0] * pieces[at - 1][1], _NONE)[1]:
                text = text.lstrip()
            if at + 1 < len(pieces):
                following, following_is_control = pieces[at + 1]
                if self._strips.get(following * following_is_control, _NONE)[0]:
                    text = text.rstrip()
            ids += _encode(views.continuing if at else views.plain, text, False)
        return ids

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = False,
        spaces_between_special_tokens: bool = True,
        is_continuation: bool = False,
    ) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        A vocabulary that puts a space before a text loses it again here, unless the ids continue
        one. `spaces_between_special_tokens` changes nothing: the vocabularies that are read here
        write their own spaces, as in Hugging Face's tokenizers library.
        Raises: InvalidParameter for an id outside the vocabulary.
        """
        if not self.is_streamable:
            self._check_ids(ids)
            whole = self._views_for(()).special_aware
            with tokenizer_faults(text_fault):
                return str(whole.decode(list(ids), skip_special_tokens))
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        text = b"".join(self.token_bytes(i) for i in ids if i not in skipped).decode(
            "utf-8", "replace"
        )
        drops_space = self._has_prefix_space and not is_continuation
        return text.removeprefix(" ") if drops_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes a token stands for; empty for an id the model leaves unused.

        Raises: InvalidParameter for an id outside the vocabulary.
        """
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    def token_text(self, token_id: int) -> str:
        """A token as people read it; half a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._source.id_of(token)

    def _views_for(self, texts: Sequence[str]) -> TokenizerViews:
        try:
            return self._source.views_for(texts)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                check_unicode(text)
            raise

    def _spell(self, token_id: int) -> bytes:
        self._check_ids((token_id,))
        if token_id in self.special_token_ids:
            return self._added[token_id].encode()
        if token_id in self._added:
            text = self._added[token_id]
            is_escaped = self._spelling is Spelling.SENTENCEPIECE
            return (text.replace("▁", " ") if is_escaped else text).encode()
        token = self._source.token_of(token_id)
        return b"" if token is None else self._spelling.to_bytes(token)

    def _check_ids(self, ids: Sequence[int]) -> None:
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise InvalidParameter("token_ids", token_id, f"0 to {self.vocab_size - 1}")


def open_tokenizer_json(folder: Path) -> Backend:
    """The tokenizer.json of a folder. Raises: ModelFileError."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelFileError(
            f"{folder} has no tokenizer.json. Save one there with the tokenizers library, "
            "or use a GGUF file, which carries its own."
        )
    with tokenizer_faults(lambda told: _no_tokenizer(path, told)):
        backend = Backend.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    check_growth(path, backend)
    return backend


def _no_tokenizer(path: Path, told: str) -> ModelFileError:
    return ModelFileError(f"{path} is not a tokenizer: {told}.")


_NONE: _Strips = (False, False)


def _load_or_build(
    metadata: Mapping[str, object], cache_dir: Path, cache_key: str
) -> tuple[Backend, TokenizerFacts]:
    cached = load_cached(cache_dir, cache_key)
    if cached is None:
        cached = _build(metadata)
        store_cached(cache_dir, cache_key, *cached)
    return cached


def _build(metadata: Mapping[str, object]) -> tuple[Backend, TokenizerFacts]:
    vocabulary = read_gguf_vocabulary(metadata)
    return build_gguf_tokenizer(vocabulary), gguf_facts(vocabulary)


def _encode(backend: Backend, text: str, add_special_tokens: bool) -> list[int]:
    with tokenizer_faults(text_fault):
        try:
            # The batch form lets other threads run; `encode` would hold the interpreter throughout.
            (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except TypeError:
            check_unicode(text)
            raise
    return list(encoding.ids)
