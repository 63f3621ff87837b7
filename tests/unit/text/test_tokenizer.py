"""The tokenizers of the real models against their references, and the promises of every one."""

from __future__ import annotations

import threading
import unicodedata

import pytest
import sentencepiece
from transformers import PreTrainedTokenizerBase

from fakes.texts import MIXED_TEXTS, is_nfc
from headrace.core.errors import InvalidParameter, RequestError
from headrace.text.tokenizer import Tokenizer


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_qwen_ids_equal_transformers(
    qwen: Tokenizer, qwen_reference: PreTrainedTokenizerBase, text: str
) -> None:
    expected = qwen_reference.encode(text, add_special_tokens=False)
    assert qwen.encode(text, parse_special=True) == expected


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_qwen_text_equals_transformers(
    qwen: Tokenizer, qwen_reference: PreTrainedTokenizerBase, text: str
) -> None:
    ids = qwen.encode(text, parse_special=True)
    for skip in (False, True):
        expected = qwen_reference.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        assert qwen.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_gemma_ids_equal_sentencepiece(
    gemma: Tokenizer, gemma_reference: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    """Sentencepiece never reads control tokens in text, and neither does plain encoding.

    It ends a text at no NUL, and takes U+2581 for a space, as we do.
    """
    assert gemma.encode(text, add_special_tokens=False) == gemma_reference.EncodeAsIds(text)


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_round_trip(qwen: Tokenizer, gemma: Tokenizer, text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert is_nfc(normal)
    for parse_special in (False, True):
        ids = qwen.encode(text, parse_special=parse_special)
        assert qwen.decode(ids) == normal
        assert b"".join(map(qwen.token_bytes, ids)) == normal.encode()
        ids = gemma.encode(text, add_special_tokens=False, parse_special=parse_special)
        assert gemma.decode(ids) == text


def test_facts_of_qwen(qwen: Tokenizer) -> None:
    assert qwen.vocab_size == 151_936
    assert qwen.eos_token_ids == {qwen.id_of("<|im_end|>"), qwen.id_of("<|endoftext|>")}
    assert not qwen.adds_bos
    assert len(qwen.special_token_ids) == 20
    assert qwen.id_of("<tool_call>") not in qwen.special_token_ids
    assert qwen.chat_template is not None
    assert qwen.special_tokens["eos_token"] == "<|im_end|>"  # noqa: S105


def test_facts_of_gemma(gemma: Tokenizer) -> None:
    assert gemma.vocab_size == 262_144
    assert gemma.bos_token_id == 2
    assert gemma.eos_token_ids == {gemma.id_of("<eos>"), gemma.id_of("<end_of_turn>")}
    assert gemma.adds_bos
    assert gemma.encode("x") == [2, *gemma.encode("x", add_special_tokens=False)]
    assert gemma.chat_template is None


def test_control_tokens_in_text_stay_text(qwen: Tokenizer, gemma: Tokenizer) -> None:
    for tokenizer in (qwen, gemma):
        for token_id in tokenizer.special_token_ids:
            name = tokenizer.token_text(token_id)
            for text in (name, f"a{name}b", f" {name}\n"):
                plain = tokenizer.encode(text, add_special_tokens=False)
                assert tokenizer.special_token_ids.isdisjoint(plain)
                assert tokenizer.decode(plain) == text
            assert tokenizer.encode(name, False, parse_special=True) == [token_id]


def test_user_defined_tokens_match_in_any_text(qwen: Tokenizer, gemma: Tokenizer) -> None:
    assert qwen.id_of("<tool_call>") in qwen.encode("x<tool_call>y")
    assert gemma.encode("\n\n\n<b>" + " " * 31, False) == [
        gemma.id_of("\n\n\n"),
        gemma.id_of("<b>"),
        gemma.id_of(" " * 31),
    ]


def test_pieces_join_to_the_whole(qwen: Tokenizer, gemma: Tokenizer) -> None:
    for tokenizer, name in ((qwen, "<|im_end|>"), (gemma, "<end_of_turn>")):
        text = f"Hello there {name}\n you{name}{name} "
        parts = text.split(name)
        pieces = [p for part in parts for p in ((part, False), (name, True))][:-1]
        expected = tokenizer.encode(text, add_special_tokens=False, parse_special=True)
        assert tokenizer.encode_pieces(pieces) == expected
        forged = tokenizer.encode_pieces([(f"a{name}", False), (name, True)])
        assert [i for i in forged if i in tokenizer.special_token_ids] == [tokenizer.id_of(name)]


def test_bytes_of_every_token(qwen: Tokenizer, gemma: Tokenizer) -> None:
    assert qwen.token_bytes(0) == b"!"
    assert qwen.token_bytes(151_935) == b""  # beyond the vocabulary's real tokens
    assert gemma.token_bytes(238 + 0xFF) == b"\xff"
    assert gemma.token_text(238 + 0xFF) == "\ufffd"
    known = set()
    for token_id in range(151_643):
        known.add(qwen.token_bytes(token_id))
    assert len(known) == 151_643
    assert all(bytes([byte]) in known for byte in range(256))


@pytest.mark.parametrize("token_id", [-1, 151_936])
def test_unknown_id_is_refused(qwen: Tokenizer, token_id: int) -> None:
    for call in (lambda: qwen.decode([token_id]), lambda: qwen.token_bytes(token_id)):
        with pytest.raises(InvalidParameter, match=r"token_ids is .*allowed: 0 to 151935"):
            call()


def test_text_that_is_not_unicode_is_refused(qwen: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"unpaired surrogate \(\\ud800\) at character 2"):
        qwen.encode("ab\ud800c")


def test_threads_get_the_ids_of_one(qwen: Tokenizer) -> None:
    texts = [f"{text} <|im_end|>" * 20 for text in MIXED_TEXTS]
    expected = [(qwen.encode(t), qwen.encode(t, parse_special=True)) for t in texts]
    wrong: list[str] = []

    def work() -> None:
        for text, (plain, parsed) in zip(texts * 3, expected * 3, strict=True):
            if qwen.encode(text) != plain or qwen.encode(text, parse_special=True) != parsed:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
