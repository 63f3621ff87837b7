"""A partial tokenizer gives what the whole one gives, for any text."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fakes.small_vocabularies import CONTROLS, USER_DEFINED, byte_level, sentencepiece_bpe
from fakes.texts import MIXED_TEXTS
from headrace.core.errors import RequestError
from headrace.text.partial_tokenizer import MAX_CHARS
from headrace.text.pre_tokenizers import PRE_TOKENIZERS
from headrace.text.tokenizer import Tokenizer
from headrace.text.tokenizer_cache import cache_path

Metadata = Mapping[str, object]
KINDS: dict[str, Callable[[], Metadata]] = {
    "sentencepiece with a prefix space": lambda: sentencepiece_bpe(adds_space_prefix=True)[0],
    "sentencepiece without": lambda: sentencepiece_bpe(adds_space_prefix=False)[0],
    **{pre: lambda pre=pre: byte_level(pre)[0] for pre in sorted(PRE_TOKENIZERS)},
}


def both(metadata: Metadata, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The whole tokenizer, and one that has seen no text."""
    whole = Tokenizer.from_gguf(metadata, folder, "key")
    Tokenizer.from_gguf(metadata, folder, "key", is_partial=True)
    assert cache_path(folder, "key", "vocabulary").is_file()
    return whole, Tokenizer.from_gguf(metadata, folder, "key", is_partial=True)


def mixtures(source: random.Random, count: int) -> list[str]:
    """Cuts of awkward texts beside control tokens, so that words meet in new ways."""
    found = []
    for _ in range(count):
        parts = []
        for _ in range(source.randrange(1, 4)):
            text = source.choice(MIXED_TEXTS)
            start = source.randrange(len(text) + 1)
            parts += [text[start : start + source.randrange(12)]]
            parts += source.sample((*CONTROLS, *USER_DEFINED, "\u0301", " ", ""), 1)
        found.append("".join(parts))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_whole(kind: str, tmp_path: Path) -> None:
    whole, part = both(KINDS[kind](), tmp_path)
    for name in ("vocab_size", "bos_token_id", "eos_token_ids", "special_token_ids", "adds_bos"):
        assert getattr(part, name) == getattr(whole, name)
    for text in [*MIXED_TEXTS, *mixtures(random.Random(kind), 60)]:
        for parse_special in (False, True):
            ids = whole.encode(text, parse_special=parse_special)
            assert part.encode(text, parse_special=parse_special) == ids, text
            assert part.decode(ids) == whole.decode(ids)
        pieces = [(text, False), (CONTROLS[1], True), (text, False)]
        assert part.encode_pieces(pieces) == whole.encode_pieces(pieces), text
    for token_id in range(whole.vocab_size):
        assert part.token_bytes(token_id) == whole.token_bytes(token_id)
        assert part.id_of(whole.token_text(token_id)) == whole.id_of(whole.token_text(token_id))


def test_equals_the_whole_of_a_real_model(
    qwen: Tokenizer, qwen_metadata: Metadata, tmp_path: Path
) -> None:
    part = both(qwen_metadata, tmp_path)[1]
    for text in [*MIXED_TEXTS, *mixtures(random.Random(5), 100)]:
        assert part.encode(text) == qwen.encode(text), text


def test_each_text_from_nothing(tmp_path: Path) -> None:
    """What other texts have brought in does not hide what one brings in."""
    metadata = KINDS["qwen2"]()
    whole = both(metadata, tmp_path)[0]
    for text in MIXED_TEXTS:
        part = Tokenizer.from_gguf(metadata, tmp_path, "key", is_partial=True)
        assert part.encode(text) == whole.encode(text)


def test_many_characters_load_the_whole(tmp_path: Path) -> None:
    """One long text, or short ones until there are many."""
    metadata = KINDS["qwen2"]()
    whole, part = both(metadata, tmp_path)
    text = "the lazy dog, " * (MAX_CHARS // 10)
    assert part.encode(text) == whole.encode(text)
    # The rest of the cache is gone: it is built again from the file.
    part = Tokenizer.from_gguf(metadata, tmp_path, "key", is_partial=True)
    cache_path(tmp_path, "key").unlink()
    for text in MIXED_TEXTS * 6:
        assert part.encode(text) == whole.encode(text)
    assert cache_path(tmp_path, "key").is_file()


def test_a_very_long_token_loads_the_whole(tmp_path: Path) -> None:
    """Looking up all parts of a word up to its length would take half a minute."""
    metadata = dict(KINDS["qwen2"]())
    for key, more in (("tokens", "a" * 5000), ("token_type", 1)):
        metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], more]
    whole, _ = both(metadata, tmp_path)
    cache_path(tmp_path, "key").unlink()
    part = Tokenizer.from_gguf(metadata, tmp_path, "key", is_partial=True)
    assert cache_path(tmp_path, "key").is_file()
    assert part.encode("a" * 4000) == whole.encode("a" * 4000)


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    part = both(KINDS["qwen2"](), tmp_path)[1]
    with pytest.raises(RequestError, match="unpaired surrogate"):
        part.encode("a\ud800b")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_written_again(damage: str, tmp_path: Path) -> None:
    metadata = KINDS["qwen2"]()
    whole, _ = both(metadata, tmp_path)
    path = cache_path(tmp_path, "key", "vocabulary")
    good = path.read_bytes()
    bad = {"cut": good[:-9], "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], "empty": b""}
    path.write_bytes(bad[damage])
    again = Tokenizer.from_gguf(metadata, tmp_path, "key", is_partial=True)
    assert path.read_bytes() == good
    assert again.encode("the dog") == whole.encode("the dog")
